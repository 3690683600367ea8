import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from detectron2.utils.visualizer import Visualizer
from torch import nn

from hiera_seg.errors import ConfigError
from hiera_seg.layers.scores import NodeOutput
from hiera_seg.modeling import DecodeOptions, HieraSegmentor, NodeView, decode, evaluation_mode

VOID = 250


class Recorder(Backbone):
    """Passes images on as features and keeps what it saw."""

    def __init__(self, size_divisibility: int = 32):
        super().__init__()
        self._size_divisibility = size_divisibility
        self.seen: list[torch.Tensor] = []

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    def output_shape(self):
        return {"pixels": ShapeSpec(channels=3, stride=1)}

    def forward(self, x):
        self.seen.append(x)
        return {"pixels": x}


class ScoringHead(nn.Module):
    """Scores made of the pixel's own colour, at stride 2; keeps the targets it saw."""

    ignore_value = VOID
    loss_names = ("bce",)
    output_kind = "scores"

    def __init__(self, hierarchy):
        super().__init__()
        self.hierarchy = hierarchy
        self.targets = None

    def forward(self, features, targets=None):
        if self.training:
            self.targets = targets
            return None, {"loss_bce": features["pixels"].sum()}
        x = features["pixels"]
        nodes = torch.arange(self.hierarchy.num_nodes).view(1, -1, 1, 1)
        values = (x.mean(1, keepdim=True) * (nodes + 1)).sin() + 1
        return NodeOutput(nn.functional.avg_pool2d(values, 2), "scores"), {}


@pytest.fixture
def parts(hierarchy):
    """Arguments of a segmentor made in Python, without a config."""
    return {
        "backbone": Recorder(),
        "sem_seg_head": ScoringHead(hierarchy),
        "pixel_mean": [100.0, 50.0, 25.0],
        "pixel_std": [10.0, 5.0, 2.0],
    }


@pytest.fixture
def plain(parts):
    return HieraSegmentor(**parts)


def test_what_third_party_code_reads(plain, hierarchy):
    assert plain.device == torch.device("cpu")
    assert plain.size_divisibility == plain.backbone.size_divisibility == 32
    assert plain.sem_seg_head.ignore_value == VOID
    assert plain.pixel_mean.flatten().tolist() == [100.0, 50.0, 25.0]
    assert plain.hierarchy is hierarchy
    assert not plain.state_dict()  # mean and std come from the config, as in Detectron2


def test_a_mean_of_integers_keeps_the_fractions_of_floats(parts):
    model = HieraSegmentor(**parts | {"pixel_mean": [0, 0, 0], "pixel_std": [1, 1, 1]}).eval()
    image = torch.linspace(0, 1, 3 * 32 * 32).view(3, 32, 32)
    model.predict([image])
    assert torch.equal(model.backbone.seen[0], image[None])


class LikeViT(Recorder):
    """Specifies padding as the ViTs of Detectron2's main do, by a read-only property alone."""

    def __init__(self, square_size=0):
        super().__init__(0)
        self.square_size = square_size

    @property
    def padding_constraints(self):
        return {"size_divisiblity": 12, "square_size": self.square_size}


def test_a_backbone_may_say_how_to_pad_as_in_detectron2_main(parts, make_inputs):
    model = HieraSegmentor(**parts | {"backbone": LikeViT()})
    assert model.size_divisibility == 12
    inputs = make_inputs((40, 50))
    model.train()(inputs)
    model.eval()(inputs)
    assert [tuple(x.shape[2:]) for x in model.backbone.seen] == [(48, 60)] * 2
    assert model.sem_seg_head.targets.shape == (1, 48, 60)
    with pytest.raises(ConfigError, match="LikeViT requires .* squares of 64 pixels.*square_pad=0"):
        HieraSegmentor(**parts | {"backbone": LikeViT(64)})


def test_training_normalizes_and_pads_images_and_labels(plain, make_inputs):
    plain.train()
    inputs = make_inputs((40, 50), (33, 70))
    losses = plain(inputs)
    assert set(losses) == {"loss_bce"}
    images, targets = plain.backbone.seen[0], plain.sem_seg_head.targets
    assert images.shape == (2, 3, 64, 96) and targets.shape == (2, 64, 96)
    assert targets.dtype == torch.int64
    for i, sample in enumerate(inputs):
        height, width = sample["sem_seg"].shape
        mean, std = (np.float32(x)[:, None, None] for x in ([100, 50, 25], [10, 5, 2]))
        expected = (sample["image"].numpy() - mean) / std
        np.testing.assert_allclose(images[i, :, :height, :width].numpy(), expected, atol=1e-5)
        assert images[i, :, height:].abs().sum() == images[i, :, :, width:].abs().sum() == 0
        assert torch.equal(targets[i, :height, :width], sample["sem_seg"])
        assert (targets[i, height:] == VOID).all() and (targets[i, :, width:] == VOID).all()


def test_labels_of_eight_bits_are_padded_without_overflow(plain, make_inputs):
    plain.sem_seg_head.ignore_value = 65535
    sample = make_inputs((40, 50))[0]
    sample["sem_seg"] = sample["sem_seg"].to(torch.uint8)
    plain.train()([sample])
    assert (plain.sem_seg_head.targets[0, 40:] == 65535).all()


def test_training_without_labels_names_key_file_and_mapper(plain, make_inputs):
    inputs = make_inputs((32, 32), (32, 32))
    del inputs[1]["sem_seg"]
    with pytest.raises(ValueError, match=r'scene_1\.png: no "sem_seg".*HieraDatasetMapper'):
        plain.train()(inputs)


def test_labels_of_another_size_name_both_sizes(plain, make_inputs):
    inputs = make_inputs((32, 32))
    inputs[0]["sem_seg"] = inputs[0]["sem_seg"][:30]
    with pytest.raises(ValueError, match=r"scene_0\.png.*\(30, 32\).*\(32, 32\)"):
        plain.train()(inputs)


def test_eval_needs_no_labels_and_takes_float_images(plain, make_inputs):
    inputs = make_inputs((40, 50))
    expected = plain.eval()(inputs)[0]["sem_seg"]
    found = plain([{"image": inputs[0]["image"].float()}])[0]["sem_seg"]
    assert torch.equal(found, expected)


def test_predictions_are_those_of_decode_at_the_original_size(plain, make_inputs, hierarchy):
    inputs = make_inputs((40, 50), (64, 96), (40, 50))
    inputs[0].update(height=81, width=77)
    results = plain.eval()(inputs)
    sizes = [tuple(batch.shape) for batch in plain.backbone.seen]
    assert sorted(sizes) == [(1, 3, 64, 96), (2, 3, 64, 64)]
    for sample, result in zip(inputs, results, strict=True):
        height, width = sample["image"].shape[-2:]
        padded = torch.zeros(3, -(-height // 32) * 32, -(-width // 32) * 32)
        padded[:, :height, :width] = (sample["image"] - plain.pixel_mean) / plain.pixel_std
        output, _ = plain.sem_seg_head({"pixels": padded[None]})
        expected = decode(
            [NodeView(output, tuple(padded.shape[1:]), (height, width))],
            hierarchy,
            DecodeOptions("path_sum"),
            output_size=(sample["height"], sample["width"]),
        )
        assert result["sem_seg"].shape == (6, sample["height"], sample["width"])
        torch.testing.assert_close(result["sem_seg"], expected["sem_seg"], rtol=0, atol=1e-5)
        for key in ("hiera_labels", "hiera_labels_direct"):
            assert len(result[key]) == 3
            for a, b in zip(result[key], expected[key], strict=True):
                assert a.dtype == torch.int64 and (a != b).float().mean() < 1e-3


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({}, {"sem_seg", "hiera_labels", "hiera_labels_direct"}),
        ({"direct": False}, {"sem_seg", "hiera_labels"}),
        ({"output": "scores"}, {"sem_seg"}),
        ({"output": "labels"}, {"hiera_labels", "hiera_labels_direct"}),
    ],
)
def test_decode_options_reach_the_decoder(parts, make_inputs, options, keys):
    model = HieraSegmentor(decode_options=DecodeOptions(**options), **parts).eval()
    (sample,) = make_inputs((32, 32))
    assert set(model([sample])[0]) == keys
    plain = HieraSegmentor(**parts).eval()
    assert set(plain.predict([sample["image"]], DecodeOptions(**options))[0]) == keys
    assert len(plain([sample])[0]) == 3  # the model's own options stay


def test_options_of_a_call_keep_the_models_variant(parts, make_inputs):
    """Even if its losses train another one."""
    (sample,) = make_inputs((32, 32))
    model = HieraSegmentor(decode_options=DecodeOptions("leaf"), **parts).eval()
    expected = model.predict([sample["image"]])[0]["sem_seg"]
    found = model.predict([sample["image"]], DecodeOptions(direct=False))[0]["sem_seg"]
    assert torch.equal(found, expected)


def test_options_of_version_0_1_warn_and_work(parts):
    with pytest.warns(FutureWarning, match="safe_depth.*DecodeOptions.*min_confidence=0.5"):
        model = HieraSegmentor(decode_as="leaf", safe_depth=0.5, path_scores=True, **parts)
    assert model.decode_options == DecodeOptions("leaf", min_confidence=0.5, confidence=True)
    with pytest.raises(TypeError, match="safe_deep"):
        HieraSegmentor(safe_deep=0.5, **parts)


def test_config_keys_of_test_reach_the_segmentor(make_model):
    test = "MODEL.HIERA_SEG.TEST."
    keys = {"DECODE": "leaf", "DIRECT": False, "OUTPUT": "labels", "MIN_CONFIDENCE": 0.5}
    keys |= {"CONFIDENCE": True, "GREEDY_PATH": True}
    model = make_model(*(x for name, value in keys.items() for x in (f"{test}{name}", value)))
    expected = DecodeOptions("leaf", False, "labels", 0.5, confidence=True, greedy_path=True)
    assert model.decode_options == expected
    assert make_model().decode_options == DecodeOptions("path_sum")


def test_losses_in_eval_are_those_of_training_without_its_randomness(make_model, make_inputs):
    model = make_model("MODEL.HIERA_SEG.AUXILIARY.WEIGHT", 0.4).eval()
    inputs = make_inputs((64, 96), (64, 96))
    torch.manual_seed(0)  # of the triplets
    found = model.losses(inputs)
    assert set(found) == {"loss_focal_tree_min", "loss_tree_triplet", "loss_auxiliary"}
    assert not any(module.training for module in model.modules())
    model.training = model.sem_seg_head.training = True  # the norms and dropout stay in eval
    torch.manual_seed(0)
    expected = model(inputs)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_predicting_in_training_mode_is_an_error(plain, make_inputs):
    with pytest.raises(RuntimeError, match=r"eval\(\)"):
        plain.train().predict([make_inputs((32, 32))[0]["image"]])


def test_evaluation_mode_restores_every_module_after_an_error(make_model):
    model = make_model().train()
    model.backbone.eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(ZeroDivisionError), torch.autocast("cpu", torch.bfloat16):
        with evaluation_mode(model):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
            assert not torch.is_grad_enabled()
            assert not any(module.training for module in model.modules())
            raise ZeroDivisionError
    assert [module.training for module in model.modules()] == before


def test_default_predictor_of_detectron2_runs_it(make_cfg):
    predictor = DefaultPredictor(make_cfg("INPUT.MIN_SIZE_TEST", 48))
    image = np.random.default_rng(0).integers(0, 256, (37, 61, 3), dtype=np.uint8)
    result = predictor(image)
    assert result["sem_seg"].shape == (6, 37, 61)
    assert [tuple(labels.shape) for labels in result["hiera_labels"]] == [(37, 61)] * 3
    metadata = MetadataCatalog.get("hiera_test_modeling_train")
    drawn = Visualizer(image, metadata).draw_sem_seg(result["sem_seg"].argmax(0))
    assert drawn.get_image().shape == image.shape


def test_channels_last_changes_the_layout_alone(make_model, make_inputs):
    plain, turned = make_model(), make_model("MODEL.CHANNELS_LAST", True)
    turned.load_state_dict(plain.state_dict())
    seen = {}
    turned.backbone.register_forward_hook(lambda _, __, features: seen.update(features))
    inputs = make_inputs((32, 64), (40, 64))
    for model in (plain, turned):
        model.train()
    torch.manual_seed(0)  # triplets are drawn at random
    expected = plain(inputs)
    torch.manual_seed(0)
    torch.testing.assert_close(turned(inputs), expected, rtol=1e-3, atol=1e-6)
    for feature in seen.values():
        assert feature.is_contiguous(memory_format=torch.channels_last)
    weight = next(p for p in turned.parameters() if p.dim() == 4 and min(p.shape) > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_a_foreign_head_is_refused_with_what_a_head_needs(make_model):
    keys = ("MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead", "MODEL.SEM_SEG_HEAD.NORM", "")
    with pytest.raises(ConfigError) as caught:
        make_model(*keys)
    text = str(caught.value)
    for name in ("SemSegFPNHead", "hierarchy", "loss_names", "output_kind", "node_output"):
        assert name in text
    assert "has no hierarchy, loss_names, output_kind;" in text  # it has ignore_value


def test_a_head_that_returns_a_plain_tensor_is_named(plain, make_inputs):
    plain.sem_seg_head.forward = lambda features, targets=None: (features["pixels"], {})
    with pytest.raises(TypeError, match=r"ScoringHead returned a Tensor.*node_output\(features\)"):
        plain.eval()(make_inputs((32, 32)))


def test_the_normalizer_of_a_head_of_0_1_is_used(plain, make_inputs):
    inputs = make_inputs((32, 32))
    assert plain.label_normalizer(inputs) is None
    plain.sem_seg_head.label_counts = lambda targets: (targets != VOID).sum()
    assert plain.label_normalizer(inputs) == 32 * 32
