"""The whole network against the official Mask2Former, by numbers that it computed."""

from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from hiera_seg import add_hiera_seg_config
from hiera_seg.engine.convert import convert_mask2former

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "Cityscapes" / "maskformer_r50.yaml"


@pytest.fixture(scope="module")
def computed(reference):
    """What our network computes with the official one's weights, and what that computed."""
    weights, images, expected = reference.golden()
    cfg = get_cfg()
    add_hiera_seg_config(cfg)
    cfg.merge_from_file(str(CONFIG))
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).eval()
    missing, unexpected = model.load_state_dict(convert_mask2former(weights), strict=False)
    assert not unexpected
    assert all(name.endswith(".num_batches_tracked") for name in missing)
    head = model.sem_seg_head
    with torch.no_grad():
        features = model.backbone(images)
        mask_features, _, multi_scale = head.pixel_decoder.forward_features(features)
        prediction = head.layers(features)[-1]
        scores = head(features)[0].values
    found = {
        "mask_features": mask_features[:, :32],
        "multi_scale0": multi_scale[0],
        "pred_logits": prediction.class_logits,
        "pred_masks": prediction.mask_logits[:, ::10],
        "semantic": scores[0, : head.hierarchy.num_leaves, ::4, ::4],
    }
    return found, expected


@pytest.mark.parametrize(
    "name", ["mask_features", "multi_scale0", "pred_logits", "pred_masks", "semantic"]
)
def test_every_output_of_the_official_network_is_reproduced(computed, name):
    found, expected = computed
    assert set(found) == set(expected)
    found, expected = found[name], expected[name]
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
