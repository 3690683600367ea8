"""The Boundary IoU as a part of evaluations."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

from hiera_seg.evaluation import (
    HieraSemSegEvaluator,
    build_hiera_evaluator,
    evaluate_predictions,
)
from hiera_seg.metrics import BoundaryCounts
from tests.helpers import new_config

from .conftest import TREE, FakeModel, run


def test_boundary_iou_is_an_option_of_evaluator_config_and_predictions(dataset, tmp_path, caplog):
    name, records, truths = dataset
    model = FakeModel(truths)
    plain = HieraSemSegEvaluator(name)
    expected = run(plain, records, model)["sem_seg"]
    cfg = new_config()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.OUTPUT_DIR = ""
    assert build_hiera_evaluator(cfg, name).metric_names == plain.metric_names
    cfg.MODEL.HIERA_SEG.TEST.BOUNDARY_IOU = True
    evaluator = build_hiera_evaluator(cfg, name)
    with caplog.at_level("INFO"):
        found = run(evaluator, records, model)["sem_seg"]
    counts = BoundaryCounts(TREE)
    for index, truth in enumerate(truths):
        counts.add(model.labels(index), truth)
    names = [f"BoundaryIoU-{leaf}" for leaf in TREE.leaf_names]
    more = dict(zip(names, 100 * counts.detectron2_iou(), strict=True))
    for level, level_name in enumerate(TREE.level_names):
        iou = 100 * counts.level_iou(level)
        more[f"mBoundaryIoU_{level_name}"] = iou.mean()
        for node, value in zip(TREE.level_nodes(level), iou, strict=True):
            more[f"BoundaryIoU-{level_name}-{TREE.display_names[node]}"] = value
    assert found == pytest.approx(expected | more)
    assert set(evaluator.metric_names) - set(plain.metric_names) == set(more)
    assert f"mBoundaryIoU_group {more['mBoundaryIoU_group']:.2f} %" in caplog.text
    assert "BoundaryIoU-" not in caplog.text

    folder = tmp_path / "predictions"
    folder.mkdir()
    for index, record in enumerate(records):
        labels = model.labels(index).astype(np.uint8)
        Image.fromarray(labels).save(folder / Path(record["file_name"]).name)
    written = evaluate_predictions(name, folder, boundary_iou=True)["sem_seg"]
    assert written["mBoundaryIoU_group"] == found["mBoundaryIoU_group"]


@pytest.mark.skipif(
    not hasattr(SemSegEvaluator, "_mask_to_boundary"), reason="Detectron2 0.6 has no Boundary IoU"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_boundary_iou_of_leaves_equals_detectron2_main(dataset):
    name, records, truths = dataset
    model = FakeModel(truths)
    stock = run(SemSegEvaluator(name, distributed=False), records, model)["sem_seg"]
    ours = run(HieraSemSegEvaluator(name, boundary_iou=True), records, model)["sem_seg"]
    keys = [f"BoundaryIoU-{leaf}" for leaf in TREE.leaf_names]
    assert [ours[key] for key in keys] == pytest.approx([stock[key] for key in keys], abs=1e-9)
