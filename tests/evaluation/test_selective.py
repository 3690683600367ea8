"""Calibration and safe depth in the evaluator: keys, files, and what an output has to hold."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

from hiera_seg import Hierarchy
from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.evaluation import HieraSemSegEvaluator
from hiera_seg.layers.scores import NodeOutput
from hiera_seg.modeling import DecodeOptions, NodeView, decode

TREE = Hierarchy.from_dict(
    {"sky": None, "flat": ["road", "path"], "vehicle": {"car": ["taxi", "van"], "bus": None}},
    levels=["group", "kind", "class"],
)
SIZE = (24, 20)
KEYS = {"safe_depth_auc", "ECE_group", "ECE_kind", "ECE_class"}
FILES = {"safe_depth.json", "calibration.json"}


@pytest.fixture
def records(tmp_path):
    records = []
    for i in range(2):
        truth = np.random.default_rng(i).integers(0, TREE.num_leaves, SIZE).astype(np.uint8)
        truth[:, 0] = 255
        truth[0, 1:] = TREE["vehicle"]
        Image.fromarray(truth).save(tmp_path / f"{i}.png")
        stem = str(tmp_path / str(i))
        records.append({"file_name": f"{stem}.jpg", "sem_seg_file_name": f"{stem}.png"})
    return records


@pytest.fixture
def name(records, tmp_path):
    name = f"of_test_selective_{tmp_path.name}"
    register_hierarchical_dataset(name, lambda: records, hierarchy=TREE)
    return name


def predict(record, **options):
    """A model that sees the truth through noise."""
    truth = np.asarray(Image.open(record["sem_seg_file_name"])).astype(int)
    on_path = TREE.ancestor_matrix[np.where(truth < TREE.num_nodes, truth, 0)]
    generator = torch.Generator().manual_seed(0)
    noise = 2 * torch.randn(TREE.num_nodes, *SIZE, generator=generator)
    values = 2 * torch.as_tensor(on_path).permute(2, 0, 1).float() - 1 + noise
    options = DecodeOptions("path_sum", **{"confidence": True, "greedy_path": True, **options})
    view = NodeView(NodeOutput(values, "logits"), padded_size=SIZE, image_size=SIZE)
    return decode([view], TREE, options, output_size=SIZE)


def evaluate(evaluator, records, outputs):
    evaluator.reset()
    evaluator.process(records, outputs)
    return evaluator.evaluate()["sem_seg"]


def test_numbers_and_files(name, records, tmp_path):
    evaluator = HieraSemSegEvaluator(name, output_dir=str(tmp_path / "out"))
    result = evaluate(evaluator, records, [predict(record) for record in records])
    assert all(0 < result[key] < 100 for key in KEYS)
    curve = json.loads((tmp_path / "out/safe_depth.json").read_text())["overall"]
    assert curve["area"] * 100 == pytest.approx(result["safe_depth_auc"])
    assert curve["pixels"] == 2 * 23 * 19  # void and coarse truth do not count
    levels = json.loads((tmp_path / "out/calibration.json").read_text())
    assert list(levels) == ["group", "kind", "class"]
    for level, content in levels.items():
        assert content["ece"] * 100 == pytest.approx(result[f"ECE_{level}"])
    pixels = [sum(b["count"] for b in content["bins"]) for content in levels.values()]
    assert pixels == [2 * 24 * 19, 2 * 23 * 19, 2 * 23 * 19]  # coarse truth reaches the groups
    summary = json.loads((tmp_path / "out/hiera_metrics.json").read_text())
    assert KEYS <= set(summary["metrics"])


@pytest.mark.parametrize("index", [0, 40, 60, 90])
def test_the_curve_is_what_an_evaluation_at_that_safe_depth_finds(name, records, tmp_path, index):
    evaluator = HieraSemSegEvaluator(name, output_dir=str(tmp_path))
    evaluate(evaluator, records, [predict(record) for record in records])
    curve = json.loads((tmp_path / "safe_depth.json").read_text())["overall"]
    right = pixels = 0
    for record in records:
        output = predict(record, min_confidence=curve["thresholds"][index])
        label = output["hiera_labels"][-1].numpy()
        truth = np.asarray(Image.open(record["sem_seg_file_name"]))
        known = truth < TREE.num_leaves
        right += TREE.ancestor_matrix[truth[known], label[known]].sum()
        pixels += known.sum()
    assert curve["accuracy"][index] == pytest.approx(right / pixels, abs=1e-12)


def test_labels_alone_give_the_same(name, records):
    evaluator = HieraSemSegEvaluator(name)
    expected = evaluate(evaluator, records, [predict(record) for record in records])
    found = evaluate(evaluator, records, [predict(record, output="labels") for record in records])
    assert found == expected


def test_without_scores_there_are_no_numbers_and_no_files(name, records, tmp_path, caplog):
    evaluator = HieraSemSegEvaluator(name, output_dir=str(tmp_path / "out"))
    evaluate(evaluator, records, [predict(record) for record in records])
    outputs = [predict(record, confidence=False, greedy_path=False) for record in records]
    assert not KEYS & set(evaluate(evaluator, records, outputs))
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert "hiera_metrics.json" in written and not FILES & written  # none of an earlier evaluation
    outputs[0] = predict(records[0])
    assert not KEYS & set(evaluate(evaluator, records, outputs))
    for key in ("hiera_confidence", "hiera_greedy_path"):
        assert f"1 of 2 images had '{key}'" in caplog.text


def test_output_keys_of_version_0_1_are_read(name, records):
    evaluator = HieraSemSegEvaluator(name)
    outputs = [predict(record) for record in records]
    expected = evaluate(evaluator, records, outputs)
    for output in outputs:
        output["hiera_scores"] = output.pop("hiera_confidence")
        output["hiera_walk"] = output.pop("hiera_greedy_path")
        output["hiera_walk_limits"] = output.pop("hiera_greedy_path_limits")
    assert evaluate(evaluator, records, outputs) == expected


@pytest.mark.parametrize("unscored", [[], ["sky"]])
def test_metric_names_are_the_keys_of_a_complete_result(name, records, unscored):
    MetadataCatalog.get(name).set(unscored_classes=unscored)
    evaluator = HieraSemSegEvaluator(name)
    result = evaluate(evaluator, records, [predict(record) for record in records])
    assert sorted(evaluator.metric_names) == sorted(result)
    assert ("mIoU_all" in result) == bool(unscored)


def test_scores_that_do_not_fit_name_the_image(name, records):
    output = predict(records[0])
    output["hiera_confidence"] = output["hiera_confidence"][:1]
    with pytest.raises(ValueError, match=r"0\.jpg .* 1 maps of scores for the 3 levels"):
        HieraSemSegEvaluator(name).process(records[:1], [output])
