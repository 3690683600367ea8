"""Map the tensor names of the official Mask2Former release to those of this package."""

import re
from collections.abc import Mapping

from torch import Tensor

_DECODER = "sem_seg_head.transformer_decoder"
_ENCODER = "sem_seg_head.pixel_decoder"
# (pattern of a whole name, our name); the first match is used
_RULES = [
    (pattern.replace(".", r"\.").replace("#", r"(\d+)").replace("*", "(weight|bias)"), ours)
    for pattern, ours in [
        # Pixel decoder
        ("sem_seg_head.pixel_decoder.input_proj.#.#.*", rf"{_ENCODER}.input_projections.\1.\2.\3"),
        (
            "sem_seg_head.pixel_decoder.transformer.level_embed",
            f"{_ENCODER}.level_embedding",
        ),
        *(
            (
                f"sem_seg_head.pixel_decoder.transformer.encoder.layers.#.{theirs}.*",
                rf"{_ENCODER}.layers.\1.{ours}.\2",
            )
            for theirs, ours in {
                "self_attn.sampling_offsets": "attention.offsets",
                "self_attn.attention_weights": "attention.weights",
                "self_attn.value_proj": "attention.value",
                "self_attn.output_proj": "attention.out",
                "norm1": "attention_norm",
                "linear1": "expand",
                "linear2": "contract",
                "norm2": "feedforward_norm",
            }.items()
        ),
        ("sem_seg_head.pixel_decoder.adapter_1.*", rf"{_ENCODER}.lateral.\1"),
        ("sem_seg_head.pixel_decoder.adapter_1.norm.*", rf"{_ENCODER}.lateral.norm.\1"),
        ("sem_seg_head.pixel_decoder.layer_1.*", rf"{_ENCODER}.smooth.\1"),
        ("sem_seg_head.pixel_decoder.layer_1.norm.*", rf"{_ENCODER}.smooth.norm.\1"),
        ("sem_seg_head.pixel_decoder.mask_features.*", rf"{_ENCODER}.mask_features.\1"),
        # Transformer decoder
        *(
            (
                f"sem_seg_head.predictor.transformer_{theirs}_attention_layers.#.{inner}.*",
                rf"{_DECODER}.layers.\1.{theirs}_attention.{ours}.\2",
            )
            for theirs, attention in (("self", "self_attn"), ("cross", "multihead_attn"))
            for inner, ours in ((f"{attention}.out_proj", "out"), ("norm", "norm"))
        ),
        *(
            (
                f"sem_seg_head.predictor.transformer_ffn_layers.#.{theirs}.*",
                rf"{_DECODER}.layers.\1.{ours}.\2",
            )
            for theirs, ours in {
                "linear1": "expand",
                "linear2": "contract",
                "norm": "norm",
            }.items()
        ),
        ("sem_seg_head.predictor.decoder_norm.*", rf"{_DECODER}.norm.\1"),
        # Checkpoints of the first version call the queries static_query
        ("sem_seg_head.predictor.query_feat.weight", f"{_DECODER}.query_features.weight"),
        ("sem_seg_head.predictor.static_query.weight", f"{_DECODER}.query_features.weight"),
        ("sem_seg_head.predictor.query_embed.weight", f"{_DECODER}.query_positions.weight"),
        ("sem_seg_head.predictor.level_embed.weight", f"{_DECODER}.level_embedding.weight"),
        ("sem_seg_head.predictor.input_proj.#.*", rf"{_DECODER}.input_projections.\1.\2"),
        ("sem_seg_head.predictor.class_embed.*", rf"{_DECODER}.class_predictor.\1"),
        ("sem_seg_head.predictor.mask_embed.layers.0.*", rf"{_DECODER}.mask_embedding.0.\1"),
        ("sem_seg_head.predictor.mask_embed.layers.1.*", rf"{_DECODER}.mask_embedding.2.\1"),
        ("sem_seg_head.predictor.mask_embed.layers.2.*", rf"{_DECODER}.mask_embedding.4.\1"),
    ]
]
# One row per class, then one for "no object"
CLASS_LAYERS = (f"{_DECODER}.class_predictor.weight", f"{_DECODER}.class_predictor.bias")
# The release's own Swin, as TimmBackbone names timm's
_BACKBONE = [
    (r"backbone\.patch_embed\.(.+)", r"backbone.body.patch_embed.\1"),
    (r"backbone\.layers\.(\d+)\.blocks\.(.+)", r"backbone.body.layers_\1.blocks.\2"),
]
_SWIN_DOWNSAMPLE = re.compile(r"backbone\.layers\.(\d+)\.downsample\.(.+)")
_SWIN_NORM = re.compile(r"backbone\.norm(\d)\.(weight|bias)")
# PyTorch's attention has the weights of query, key and value in one tensor
_IN_PROJECTION = re.compile(
    r"sem_seg_head\.predictor\.transformer_(self|cross)_attention_layers\.(\d+)\."
    r"(?:self_attn|multihead_attn)\.in_proj_(weight|bias)"
)


def convert_mask2former(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of an official Mask2Former checkpoint.

    Args:
        state: tensors by the release's names, such as
            "sem_seg_head.predictor.class_embed.weight".

    Returns:
        Tensors by the names of this package. Both use Detectron2's names for a ResNet; those of
        the release's Swin become the names of
        :class:`~hiera_seg.modeling.backbones.TimmBackbone`. Unknown names are unchanged.
    """
    converted: dict[str, Tensor] = {}
    for name, value in state.items():
        found = _IN_PROJECTION.fullmatch(name)
        if found:
            kind, layer, suffix = found.groups()
            prefix = f"{_DECODER}.layers.{layer}.{kind}_attention"
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                converted[f"{prefix}.{part}.{suffix}"] = rows
        else:
            converted[_rename(name)] = value
    return converted


def _rename(name: str) -> str:
    # Patch merging is the first layer of a stage in timm, and the last one of the stage before in
    # the release
    found = _SWIN_DOWNSAMPLE.fullmatch(name)
    if found:
        return f"backbone.body.layers_{int(found[1]) + 1}.downsample.{found[2]}"
    found = _SWIN_NORM.fullmatch(name)
    if found:
        return f"backbone.norms.res{int(found[1]) + 2}.{found[2]}"
    for pattern, ours in [*_RULES, *_BACKBONE]:
        found = re.fullmatch(pattern, name)
        if found:
            return found.expand(ours)
    return name
