"""The whole network against the official Mask2Former, by numbers that it computed."""

import pytest
import torch
from detectron2.modeling import build_model

from hiera_seg.checkpoint.convert import convert_mask2former
from hiera_seg.modeling.transformer_decoder import MaskedAttentionDecoder
from tests.helpers import CONFIGS, new_config

CONFIG = CONFIGS / "Cityscapes" / "maskformer_r50.yaml"


@pytest.fixture(scope="module")
def model(reference):
    """Our network with the official one's weights; the images; what the official one computed."""
    weights, images, expected = reference.golden()
    cfg = new_config()
    cfg.merge_from_file(str(CONFIG))
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).eval()
    missing, unexpected = model.load_state_dict(convert_mask2former(weights), strict=False)
    assert not unexpected
    assert all(name.endswith(".num_batches_tracked") for name in missing)
    return model, images, expected


def outputs(model, images, allowed) -> dict[str, torch.Tensor]:
    """What the network computes in the images' type, `allowed` in place of its own attention mask.

    The mask is a hard decision, on or off at 0: a logit next to 0 falls to either side by the
    rounding of one processor, and the query's result changes by a thousandth.
    """
    model.to(images.dtype)
    head = model.sem_seg_head
    decoder = next(m for m in head.modules() if isinstance(m, MaskedAttentionDecoder))
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "_allowed", allowed(decoder))
        features = model.backbone(images)
        mask_features, _, multi_scale = head.pixel_decoder.forward_features(features)
        prediction = head.layers(features)[-1]
        scores = head.node_output(features).values
    return {
        "mask_features": mask_features[:, :32],
        "multi_scale0": multi_scale[0],
        "pred_logits": prediction.class_logits,
        "pred_masks": prediction.mask_logits[:, ::10],
        "semantic": scores[0, : head.hierarchy.num_leaves, ::4, ::4],
    }


@pytest.fixture(scope="module")
def computed(model):
    """Outputs in float64, those in float32 with the decisions of float64; expected ones."""
    model, images, expected = model
    decisions, margins = [], []

    def record(decoder):
        def allowed(x, mask_features):
            logits = decoder.mask_embedding(decoder.norm(x)) @ mask_features.flatten(2)
            margins.append(logits.abs().min().item())
            decisions.append(MaskedAttentionDecoder._allowed(decoder, x, mask_features))
            return decisions[-1]

        return allowed

    def replay(decoder):
        return lambda x, mask_features: next(remaining)

    exact = outputs(model, images.double(), record)
    assert len(decisions) == 2 * 9, "the decoder ran twice, on each of 9 layers"
    # The nearest logit is 5e-8 (query 5, last layer): float32 may take it for negative, float64,
    # which is exact to 1e-12 here, cannot.
    assert min(margins) > 1e-9, "a decision that the rounding of float64 can change"
    remaining = iter(decisions)
    return {torch.float64: exact, torch.float32: outputs(model, images, replay)}, expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "name", ["mask_features", "multi_scale0", "pred_logits", "pred_masks", "semantic"]
)
def test_every_output_of_the_official_network_is_reproduced(computed, name, dtype):
    found, expected = computed
    assert set(found[dtype]) == set(expected)
    found, expected = found[dtype][name], expected[name]
    assert found.shape == expected.shape and found.dtype == dtype
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
