"""The whole network of HSSN's public release, by numbers that it computed."""

import pytest
import torch
from detectron2.modeling import build_model

from hiera_seg.checkpoint.convert import convert_mmseg
from tests.helpers import CONFIGS, new_config

CONFIG = CONFIGS / "Base-SepASPP-R101d.yaml"


@pytest.fixture(scope="module")
def computed(reference):
    """What our network computes with the release's weights, and what that computed."""
    pytest.importorskip("timm", reason="needs timm: pip install timm")
    weights, images, expected = reference.golden("hssn_deeplabv3plus_r101_cityscapes")
    cfg = new_config()
    cfg.merge_from_file(str(CONFIG))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.HIERA_SEG.HIERARCHY = "cityscapes"
    cfg.MODEL.HIERA_SEG.TIMM.PRETRAINED = False
    cfg.MODEL.HIERA_SEG.AUXILIARY.WEIGHT = 0.4
    model = build_model(cfg).eval()
    missing, unexpected = model.load_state_dict(convert_mmseg(weights), strict=False)
    assert not unexpected
    assert all(name.endswith(".num_batches_tracked") for name in missing)  # the weights have none
    head = model.sem_seg_head
    with torch.no_grad():
        features = model.backbone(images)
        found = {
            "res5": features["res5"][:, :64],
            "node_logits": head.node_output(features).values,
            "embedding": torch.nn.functional.normalize(head.embedding_head(features), dim=1),
            "aux_logits": head.auxiliary_head(features),
        }
    return found, expected


@pytest.mark.parametrize("name", ["res5", "node_logits", "embedding", "aux_logits"])
def test_every_output_of_the_release_is_reproduced(computed, name):
    found, expected = computed
    assert set(found) == set(expected)
    found, expected = found[name], expected[name]
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
