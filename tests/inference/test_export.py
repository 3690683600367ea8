"""Files of each format give what the model gives, at any size."""

import json
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from hiera_seg import Hierarchy
from hiera_seg.compat import exports_any_size
from hiera_seg.errors import ConfigError
from hiera_seg.inference import export
from hiera_seg.inference.deployed import DeployedSegmentor
from hiera_seg.inference.export import (
    SUFFIXES,
    ExportError,
    check_exported,
    export_segmentor,
    load_exported,
)
from hiera_seg.layers import SiblingAdjustment
from hiera_seg.layers.scores import NodeOutput, node_scores
from hiera_seg.losses import HierarchicalLoss
from hiera_seg.modeling import DecodeOptions, FPNDecoder, HieraPixelHead, HieraSegmentor
from hiera_seg.modeling.paths import cut_path, direct_labels, greedy_path, path_labels

TREE = Hierarchy.from_dict(
    {"flat": {"ground": ["road", "path"]}, "vehicle": {"car": None, "van": None}, "sky": None},
    name="small",
    levels=["group", "kind", "class"],
)
PAGE = Path(__file__).parents[2] / "docs/export.md"
SIZES = [(1, 40, 56), (1, 33, 61), (3, 17, 18)]


class TwoStrides(Backbone):
    """Two convolutions, whose maps fit each other only where an image was padded."""

    size_divisibility = 8

    def __init__(self):
        super().__init__()
        self.fine = nn.Conv2d(3, 8, 5, 4, 2)
        self.coarse = nn.Conv2d(8, 8, 3, 2, 1)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            "fine": ShapeSpec(channels=8, stride=4),
            "coarse": ShapeSpec(channels=8, stride=8),
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.fine(x).relu()
        return {"fine": fine, "coarse": self.coarse(fine).relu()}


def build(backbone: Backbone | None = None, seed: int = 0, **settings) -> HieraSegmentor:
    torch.manual_seed(seed)
    backbone = backbone or TwoStrides()
    decoder = FPNDecoder(input_shape=backbone.output_shape(), conv_dims=8, common_stride=4, norm="")
    head = HieraPixelHead(
        hierarchy=TREE,
        pixel_decoder=decoder,
        loss=HierarchicalLoss(TREE, [("bce", 1.0, {})]),
        ignore_value=255,
    )
    nn.init.normal_(head.predictor.weight, std=1.0)
    mean, std = [120.0, 110.0, 100.0], [60.0, 58.0, 57.0]
    return HieraSegmentor(
        backbone=backbone,
        sem_seg_head=head,
        pixel_mean=mean,
        pixel_std=std,
        decode_options=DecodeOptions(**settings),
    ).eval()


def example_of(format: str) -> str:
    """The code of the page that runs a file of a format."""
    blocks = PAGE.read_text().split("```python\n")[1:]
    loads = {"torchscript": "torch.jit.load", "export": "torch.export.load", "onnx": "onnxruntime"}
    return next(code for block in blocks if loads[format] in (code := block.split("```")[0]))


def images(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(256, (batch, 3, height, width), generator=generator).to(torch.uint8)


def assert_same_as_model(run, model: HieraSegmentor, names: list[str]) -> None:
    for size in SIZES:
        batch = images(*size)
        found = dict(zip(names, run(batch), strict=True))
        for row, image in enumerate(batch):
            with torch.no_grad():
                expected = model([{"image": image}])[0]
            for name in names:
                if name == "sem_seg":
                    assert torch.allclose(found[name][row], expected[name], rtol=0, atol=1e-4)
                else:
                    assert torch.equal(found[name][row], torch.stack(expected[name]).long()), size
                    assert found[name].dtype == torch.int64


class Labels(nn.Module):
    """Labels of node values (1, N, H, W): of paths, of levels, with safe depth."""

    def __init__(self, tree: Hierarchy):
        super().__init__()
        self.tree = tree

    def forward(self, values: Tensor) -> Tensor:
        scores, tree = node_scores(NodeOutput(values, "logits"), self.tree, "path_sum"), self.tree
        maps = path_labels(scores.leaf_ranking()[0], tree) + direct_labels(scores, tree)
        return torch.stack(maps + cut_path(*greedy_path(scores, tree), 0.3))


@pytest.mark.parametrize("more", [1, 255])
def test_nan_values_give_the_same_labels_in_onnx_files(tmp_path, more):
    """Whose runtime loses NaN in a maximum, and has no maximum of int16."""
    skip_if_missing("onnx")
    import onnxruntime

    tree = Hierarchy.from_dict([TREE.to_dict()["tree"], {"many": [f"n{i}" for i in range(more)]}])
    values = torch.randn(1, tree.num_nodes, 9, tree.num_nodes + 1)
    for node in range(tree.num_nodes):
        values[:, node, :, node] = torch.nan
    values[..., -1] = torch.nan
    labels = Labels(tree)
    expected = labels(values)  # before it is traced: makes the tables of the tree
    path = str(tmp_path / "labels.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(labels, (values,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: values.numpy()})
    assert torch.equal(torch.from_numpy(found), expected)


def skip_if_missing(format: str) -> None:
    if format != "torchscript" and not exports_any_size():
        pytest.skip(f"format {format} needs torch 2.6")
    for package in ("onnxscript", "onnxruntime") if format == "onnx" else ():
        pytest.importorskip(package, reason="needs the extra export")


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_file_gives_what_the_model_gives_at_any_size(format, tmp_path, monkeypatch):
    skip_if_missing(format)
    model, path = build(), tmp_path / f"model{SUFFIXES[format]}"
    segmentor = DeployedSegmentor(model)
    assert export_segmentor(segmentor, path, format, "RGB") < 1e-4
    assert [file.name for file in tmp_path.iterdir()] == [path.name]

    run, about = load_exported(path, format)
    assert about["outputs"] == ["sem_seg", "hiera_labels", "hiera_labels_direct"]
    assert about["nodes"] == list(TREE.paths)
    assert about["levels"] == ["group", "kind", "class"]
    assert about["image"].endswith("RGB")
    assert_same_as_model(run, model, about["outputs"])
    run(images(1, 1000, 9))  # the last size of all: nothing was kept of earlier ones

    monkeypatch.chdir(tmp_path)
    cv2.imwrite("street.jpg", images(1, 40, 56)[0].permute(1, 2, 0).numpy())
    exec(compile(example_of(format), str(PAGE), "exec"), {})


@pytest.mark.parametrize(
    "settings",
    [
        {"variant": "path_product"},
        {"variant": "leaf", "direct": False},
        {"variant": "level_softmax", "output": "scores"},
        {"variant": "joint_softmax", "output": "labels"},
        {"variant": "marginal", "min_confidence": 0.4},
        {"min_confidence": 0.6},
    ],
    ids=str,
)
def test_a_file_decodes_as_the_model_is_set(settings, tmp_path):
    model = build(**settings)
    segmentor = DeployedSegmentor(model)
    export_segmentor(segmentor, tmp_path / "model.pt", "torchscript")
    run, about = load_exported(tmp_path / "model.pt", "torchscript")
    assert ("sem_seg" in about["outputs"]) == (settings.get("output") != "labels")
    assert ("hiera_labels" in about["outputs"]) == (settings.get("output") != "scores")
    assert_same_as_model(run, model, about["outputs"])


@pytest.mark.parametrize("variant", ["marginal_path_sum", "level_softmax"])
@pytest.mark.parametrize("format", SUFFIXES)
def test_a_file_has_the_adjustment_of_siblings(format, variant, tmp_path):
    skip_if_missing(format)
    model = build(variant=variant)
    plain = model([{"image": images(1, 40, 56)[0]}])[0]["sem_seg"]
    pixels = 10.0 ** np.arange(TREE.num_nodes)
    adjust = SiblingAdjustment(TREE, pixels, 0.5, by_level=variant == "level_softmax")
    model.sem_seg_head.sibling_adjustment = adjust
    assert not torch.allclose(model([{"image": images(1, 40, 56)[0]}])[0]["sem_seg"], plain)
    path = tmp_path / f"model{SUFFIXES[format]}"
    export_segmentor(DeployedSegmentor(model), path, format, "RGB")
    run, about = load_exported(path, format)
    assert_same_as_model(run, model, about["outputs"])


def test_tracing_warns_of_a_users_part_alone(tmp_path):
    class Asks(TwoStrides):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            if x.mean() > 0:  # what a trace cannot hold
                x = x + 0
            return super().forward(x)

    path = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_segmentor(DeployedSegmentor(build()), path, "torchscript")
        load_exported(path, "torchscript")
    with pytest.warns(torch.jit.TracerWarning, match="Python boolean"):
        export_segmentor(DeployedSegmentor(build(Asks())), path, "torchscript")


def test_a_network_that_can_not_be_exported_is_one_line_and_leaves_no_file(tmp_path):
    skip_if_missing("export")

    class Asks(TwoStrides):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return super().forward(x + 1 if x.mean() > 0 else x)

    with pytest.raises(ExportError, match=r"as export: [^\n]+$"):
        export_segmentor(DeployedSegmentor(build(Asks())), tmp_path / "model.pt2", "export")
    assert list(tmp_path.iterdir()) == []


def test_the_check_refuses_a_file_of_other_weights(tmp_path):
    path = tmp_path / "model.pt"
    export_segmentor(DeployedSegmentor(build(seed=1)), path, "torchscript")
    with pytest.raises(ExportError, match=r"1 x 128 x 160: sem_seg differs by"):
        check_exported(DeployedSegmentor(build()), path, "torchscript")
    export_segmentor(DeployedSegmentor(build(seed=1, output="labels")), path, "torchscript")
    with pytest.raises(ExportError, match=r"hiera_labels differs .* in \d+\.\d+% of the labels"):
        check_exported(DeployedSegmentor(build(output="labels")), path, "torchscript")


def test_a_file_that_computes_something_else_is_not_left_behind(tmp_path, monkeypatch):
    (tmp_path / "model.pt").write_text("an earlier one")
    other = build(seed=1)
    write = export._write
    monkeypatch.setattr(export, "_write", lambda _, *rest: write(DeployedSegmentor(other), *rest))
    with pytest.raises(ExportError, match="sem_seg differs by"):
        export_segmentor(DeployedSegmentor(build()), tmp_path / "model.pt", "torchscript")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
    assert (tmp_path / "model.pt").read_text() == "an earlier one"


@pytest.mark.parametrize(("different", "refused"), [(9, False), (200, True)])
def test_the_check_allows_few_other_labels(different, refused, monkeypatch):
    """Of 3 x 128 x 160, as rounding causes them where the best scores nearly tie."""
    segmentor = DeployedSegmentor(build(output="labels", direct=False))

    def run(image):
        (labels,) = export._predict(segmentor, image)
        labels.view(-1)[:different] += 1
        return [labels]

    monkeypatch.setattr(export, "load_exported", lambda *_: (run, {}))
    sizes = [(1, 128, 160)]
    if refused:
        with pytest.raises(ExportError, match=r"hiera_labels differs .* in 0\.33% of the labels"):
            check_exported(segmentor, "none", "torchscript", sizes)
    else:
        check_exported(segmentor, "none", "torchscript", sizes)


def test_what_can_not_be_exported_is_said_before_anything_is_done(tmp_path, monkeypatch):
    model = build()
    with pytest.raises(ConfigError, match=r"META_ARCHITECTURE: .*Linear"):
        DeployedSegmentor(nn.Linear(1, 1))
    model.sem_seg_head = nn.Identity()
    with pytest.raises(ConfigError, match=r"SEM_SEG_HEAD\.NAME: .*Identity.*HieraPixelHead"):
        DeployedSegmentor(model)
    segmentor = DeployedSegmentor(build())
    with pytest.raises(ConfigError, match="format: .*'tflite'; choose one of"):
        export_segmentor(segmentor, tmp_path / "model", "tflite")
    for image_format in ("BANDS:0,3,2", "YUV-BT.601"):
        with pytest.raises(ConfigError, match=f"INPUT.FORMAT is '{image_format}'.* floats"):
            export_segmentor(segmentor, tmp_path / "model.pt", "torchscript", image_format)
    monkeypatch.setattr(export, "exports_any_size", lambda: True)
    with pytest.raises(ConfigError, match=r"model\.bin: .*\.pt2"):
        export_segmentor(segmentor, tmp_path / "model.bin", "export")
    with pytest.raises(ConfigError, match=": a folder; name a file in it"):
        export_segmentor(segmentor, tmp_path, "torchscript")
    with pytest.raises(ConfigError, match=r"nowhere/model\.pt: cannot be written"):
        export_segmentor(segmentor, tmp_path / "nowhere" / "model.pt", "torchscript")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="onnx, onnxscript, onnxruntime .*pip install"):
        export_segmentor(segmentor, tmp_path / "model.onnx", "onnx")


def test_a_file_describes_itself_in_plain_data():
    about = export.describe(DeployedSegmentor(build(output="labels", direct=False)), "BGR")
    assert json.loads(json.dumps(about)) == about
    assert about["outputs"] == ["hiera_labels"]
    assert len(about["colors"]) == len(about["nodes"]) == TREE.num_nodes
