"""Official Swin backbones in timm's names, against Hugging Face transformers' Swin.

Hugging Face's names are turned into the official ones, and those by the converter into ours.
"""

import pytest
import torch

pytest.importorskip("timm", reason="timm is not installed (the extra timm)")
pytest.importorskip("transformers", reason="transformers is not installed (the extra compare)")

from transformers import SwinConfig  # noqa: E402
from transformers.models.swin.modeling_swin import SwinBackbone  # noqa: E402

from hiera_seg.checkpoint.convert import convert_mask2former  # noqa: E402
from hiera_seg.modeling.backbones.timm import TimmBackbone  # noqa: E402

TO_OFFICIAL = [
    ("swin.embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("swin.embeddings.norm", "patch_embed.norm"),
    ("swin.encoder.layers", "layers"),
    ("attention.relative_position_bias.relative", "attn.relative"),
    ("attention.o_proj", "attn.proj"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    *((f"hidden_states_norms.stage{i + 1}", f"norm{i}") for i in range(4)),
]


def official(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names of the official release for the tensors of Hugging Face's Swin."""
    renamed = {}
    for original, value in state.items():
        name = original
        if name.startswith("swin.layernorm"):
            continue  # of a classifier
        for theirs, ours in TO_OFFICIAL:
            name = name.replace(theirs, ours)
        if "attention.k_proj" in name or "attention.v_proj" in name:
            continue  # with the queries, below
        if "attention.q_proj" in name:
            of = original.replace("q_proj", "{}_proj")
            value = torch.cat([state[of.format(part)] for part in "qkv"])
            name = name.replace("attention.q_proj", "attn.qkv")
        renamed[f"backbone.{name}"] = value
    return renamed


@torch.no_grad()
def test_official_swin_weights_compute_what_they_do_elsewhere(reference):
    config = SwinConfig(
        embed_dim=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    theirs = SwinBackbone(config).eval()
    shapes = {name: list(value.shape) for name, value in theirs.state_dict().items()}
    theirs.load_state_dict(reference.fill(shapes, 5), strict=False)
    ours = TimmBackbone(name="swin_tiny_patch4_window7_224", out_norm="LN").eval()
    converted = convert_mask2former(official(theirs.state_dict()))
    state = {name.removeprefix("backbone."): value for name, value in converted.items()}
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert not missing and not unexpected

    # Whole windows at every stage: elsewhere timm shifts them before it pads, the others after
    images = torch.randn(1, 3, 448, 448, generator=torch.Generator().manual_seed(5))
    found = ours(images)
    for name, expected in zip(found, theirs(images).feature_maps, strict=True):
        assert found[name].shape == expected.shape
        assert (found[name] - expected).abs().max() < 1e-4 * expected.abs().max(), name
