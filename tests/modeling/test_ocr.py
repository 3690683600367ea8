"""Object-contextual representations: the paper's equations written out, and their losses."""

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from hiera_seg.errors import ConfigError
from hiera_seg.losses import HierarchicalLoss, LossTerm, valid_pixels
from hiera_seg.modeling.pixel_decoders import OCRDecoder
from hiera_seg.modeling.pixel_decoders.ocr import region_vectors

KEY = "MODEL.HIERA_SEG."
OCR = [f"{KEY}PIXEL_DECODER", "ocr", f"{KEY}OCR.KEY_CHANNELS", 8]


def test_a_region_is_the_weighted_mean_of_its_pixels():
    torch.manual_seed(0)
    pixels, logits = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 4, 5)
    found = region_vectors(pixels, logits)
    for b in range(2):
        for k in range(6):
            weights = logits[b, k].exp()
            expected = (pixels[b] * weights).sum((1, 2)) / weights.sum()
            torch.testing.assert_close(found[b, :, k], expected)


def test_the_decoder_computes_the_papers_equations(make_model):
    """One pixel at a time, from the names of the decoder's tensors."""
    model = make_model(*OCR).double().eval()
    decoder = model.sem_seg_head.pixel_decoder
    assert isinstance(decoder, OCRDecoder)
    for name, value in decoder.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if name.endswith("var") else value.normal_(std=0.7)
    state = decoder.state_dict()

    def conv(x, name, padding=0):
        x = F.conv2d(x, state[f"{name}.weight"], padding=padding)
        norm = [state[f"{name}.norm.{key}"] for key in ("running_mean", "running_var")]
        affine = [state[f"{name}.norm.{key}"] for key in ("weight", "bias")]
        return F.relu(F.batch_norm(x, *norm, *affine))

    features = {"res2": torch.randn(1, 16, 8, 16), "res5": torch.randn(1, 32, 1, 2)}
    features = {name: value.double() for name, value in features.items()}
    coarse = F.interpolate(features["res5"], (8, 16), mode="bilinear", align_corners=False)
    x = torch.cat([features["res2"], coarse], dim=1)
    hidden = conv(x, "region_hidden")
    logits = F.conv2d(hidden, state["region_logits.weight"], state["region_logits.bias"])
    x = conv(x, "pixels", padding=1)
    regions = region_vectors(x, logits)[..., None]
    query = conv(conv(x, "query.0"), "query.1")[0]
    key = conv(conv(regions, "key.0"), "key.1")[0, :, :, 0]
    value = conv(regions, "value")[0, :, :, 0]
    context = torch.zeros(1, 8, 8, 16, dtype=torch.double)
    for row in range(8):
        for column in range(16):
            relation = (key.T @ query[:, row, column] / 8**0.5).softmax(0)
            context[0, :, row, column] = value @ relation
    expected = conv(torch.cat([conv(context, "gathered"), x], dim=1), "augment")
    pixels, found_logits = decoder.forward_with_regions(features)
    torch.testing.assert_close(pixels, expected)
    torch.testing.assert_close(found_logits, logits)


def head_and_output(model, inputs):
    """The head of a model in training, what its layers computed, and the targets."""
    images = torch.stack([model._normalize(sample["image"]) for sample in inputs])
    targets = torch.stack([sample["sem_seg"] for sample in inputs])
    head = model.train().sem_seg_head
    return head, head.layers(model.backbone(images)), targets


def upsampled(logits, targets):
    return F.interpolate(logits, targets.shape[-2:], mode="bilinear", align_corners=False)


def test_regions_of_nodes_learn_by_the_losses_of_nodes(make_model, make_inputs, hierarchy):
    terms = [["focal_tree_min", 2.0], ["level_ce", 1.0], ["tree_triplet", 1.0]]
    model = make_model(*OCR, f"{KEY}LOSSES", terms, f"{KEY}OCR.WEIGHT", 0.5)
    head, output, targets = head_and_output(model, make_inputs((64, 96), (64, 96)))
    losses = head.losses(output, targets)
    options = {"focal_tree_min": {"normalize": "sum"}, "level_ce": {}}
    logit_terms = [(name, weight, options[name]) for name, weight in terms[:2]]
    expected = HierarchicalLoss(hierarchy, logit_terms, 255)(
        upsampled(output.regions, targets),
        targets,
        valid_count=valid_pixels(targets, hierarchy, 255),
    )
    regions = {name: loss for name, loss in losses.items() if "regions" in name}
    assert set(regions) == {"loss_regions_focal_tree_min", "loss_regions_level_ce"}
    for name, loss in expected.items():
        found = regions[name.replace("loss_", "loss_regions_")]
        torch.testing.assert_close(found, 0.5 * loss)


def test_regions_of_nodes_follow_the_schedules_of_losses(make_model, make_inputs, monkeypatch):
    monkeypatch.setattr(LossTerm, "weight_at", lambda _, iteration: 1.0 if iteration is None else 3)
    model = make_model(*OCR, f"{KEY}LOSSES", [["bce", 1.0]])
    head, output, targets = head_and_output(model, make_inputs((64, 96)))
    final = head.losses(output, targets)
    with EventStorage(start_iter=1):
        scheduled = head.losses(output, targets)
    for name in ("loss_bce", "loss_regions_bce"):
        torch.testing.assert_close(scheduled[name], 3 * final[name])


def test_regions_of_nodes_need_a_loss_on_logits(make_model):
    with pytest.raises(ConfigError, match="LOSSES is .*tree_triplet.*OCR.REGIONS"):
        make_model(*OCR, f"{KEY}LOSSES", [["tree_triplet", 1.0]], f"{KEY}TEST.DECODE", "leaf")


def test_regions_of_leaves_learn_by_cross_entropy(make_model, make_inputs, hierarchy):
    model = make_model(*OCR, f"{KEY}OCR.REGIONS", "leaf", f"{KEY}OCR.WEIGHT", 0.5)
    head, output, targets = head_and_output(model, make_inputs((64, 96), (64, 96)))
    losses = head.losses(output, targets)
    leaves = targets.where(targets < hierarchy.num_leaves, torch.tensor(-100))
    expected = F.cross_entropy(upsampled(output.regions, targets), leaves, ignore_index=-100)
    assert [name for name in losses if "regions" in name] == ["loss_regions"]
    torch.testing.assert_close(losses["loss_regions"], 0.5 * expected)


def test_no_region_loss_on_request_and_none_in_eval(make_model, make_inputs):
    model = make_model(*OCR, f"{KEY}OCR.WEIGHT", 0.0).train()
    assert not [name for name in model(make_inputs((64, 96))) if "regions" in name]
    model = make_model(*OCR).eval()
    with torch.no_grad():
        assert model.sem_seg_head.layers(model.backbone(torch.randn(1, 3, 64, 96))).regions is None
