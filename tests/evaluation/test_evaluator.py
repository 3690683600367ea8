"""The evaluator in Detectron2's own evaluation loop, and against Detectron2's own evaluator."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    DatasetEvaluators,
    SemSegEvaluator,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from PIL import Image

from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.errors import DatasetError
from hiera_seg.evaluation import (
    HieraSemSegEvaluator,
    build_hiera_evaluator,
    confusion_files,
    read_confusion,
)
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics import PathCounts, collapse_nodes, hierarchy_scores
from tests.helpers import new_config

from .conftest import SHAPES, TREE, FakeModel, run

SKY, ROAD, PATH, CAR, BUS, FLAT, VEHICLE = range(7)


# Detectron2 0.6 writes a .pth with torch.save and uses a retired logger method
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_training_script_of_somebody_else(dataset, tmp_path, caplog):
    """Beside the stock evaluator in Detectron2's loop: equal leaf numbers, csv lines, checks."""
    name, records, truths = dataset
    # A stock test mapper drops sem_seg_file_name
    loader = [[{k: r[k] for k in ("file_name", "height", "width")}] for r in records]
    evaluators = DatasetEvaluators(
        [
            SemSegEvaluator(name, distributed=False, output_dir=str(tmp_path / "stock")),
            HieraSemSegEvaluator(name, task="hiera_sem_seg"),
        ]
    )
    with caplog.at_level("INFO"):
        results = inference_on_dataset(FakeModel(truths), loader, evaluators)
        print_csv_format(results)

    stock, ours = results["sem_seg"], results["hiera_sem_seg"]
    assert list(ours)[:4] == ["mIoU", "fwIoU", "mACC", "pACC"]
    keys = ["mIoU", "fwIoU", "mACC", "pACC"]
    keys += [f"{kind}-{leaf}" for kind in ("IoU", "ACC") for leaf in TREE.leaf_names]
    assert stock.keys() >= set(keys)  # Detectron2's main adds IoUs of boundaries
    for key in keys:
        assert ours[key] == pytest.approx(stock[key], abs=1e-9), key
    assert 0 < ours["mIoU"] < ours["mIoU_group"] < 100
    assert 80 < ours["consistency"] < 100

    csv = [record.getMessage() for record in caplog.records if "copypaste" in record.getMessage()]
    assert csv[-2] == (
        "copypaste: mIoU,fwIoU,mACC,pACC,mIoU_group,fwIoU_group,mACC_group,pACC_group,"
        "mIoU_class,fwIoU_class,mACC_class,pACC_class,mIoU_direct_group,mIoU_direct_class,"
        "consistency,tree_distance,mistake_severity"
    )
    assert "| group   |" in caplog.text and "level class" in caplog.text

    cfg = get_cfg()
    cfg.TEST.EXPECTED_RESULTS = [["hiera_sem_seg", "mIoU_group", ours["mIoU_group"], 0.01]]
    assert verify_results(cfg, results)
    cfg.TEST.EXPECTED_RESULTS = [["hiera_sem_seg", "mIoU_group", 99.0, 0.01]]
    with pytest.raises(SystemExit):
        verify_results(cfg, results)


def test_result_is_that_of_the_metrics(dataset):
    name, records, truths = dataset
    model = FakeModel(truths)
    counts = PathCounts(TREE)
    for index, truth in enumerate(truths):
        output = model.predict(index)
        direct = [values.numpy() for values in output["hiera_labels_direct"]]
        counts.add(output["hiera_labels"][-1].numpy(), truth, direct)
    found = run(HieraSemSegEvaluator(name), records, model)
    assert found == {"sem_seg": hierarchy_scores(counts).as_dict()}


def test_leaf_scores_alone_are_enough_and_leave_the_direct_numbers_out(dataset):
    name, records, truths = dataset
    full = run(HieraSemSegEvaluator(name), records, FakeModel(truths))["sem_seg"]
    alone = run(HieraSemSegEvaluator(name), records, FakeModel(truths, ["sem_seg"]))["sem_seg"]
    left_out = {"consistency", "mIoU_direct_group", "mIoU_direct_class"}
    assert alone == {key: value for key, value in full.items() if key not in left_out}


def test_labels_win_over_scores_and_may_stop_at_an_inner_node(dataset):
    name, records, truths = dataset
    output = {"hiera_labels": [torch.full(SHAPES[0], VEHICLE)] * 2}
    output["sem_seg"] = torch.zeros(TREE.num_leaves, *SHAPES[0])
    evaluator = HieraSemSegEvaluator(name)
    evaluator.process(records[:1], [output])
    result = evaluator.evaluate()["sem_seg"]
    assert result["mIoU"] == 0
    share = np.isin(truths[0], (CAR, BUS)).sum() / (truths[0] != 255).sum()
    assert result["pACC_group"] == pytest.approx(100 * share)


def test_half_precision_scores_and_numpy_arrays_are_understood(dataset):
    name, records, truths = dataset
    expected = run(HieraSemSegEvaluator(name), records, FakeModel(truths, ["sem_seg"]))
    evaluator = HieraSemSegEvaluator(name)
    for index, record in enumerate(records):
        scores = FakeModel(truths).predict(index)["sem_seg"]
        scores = scores.bfloat16() if index else scores.numpy()
        evaluator.process([record], [{"sem_seg": scores}])
    assert evaluator.evaluate() == expected


def test_nan_scores_are_the_lowest_leaf_and_their_images_are_counted(dataset, caplog):
    name, records, truths = dataset
    model = FakeModel(truths, ["sem_seg"])
    outputs = model(records)
    for output in outputs[:2]:
        output["sem_seg"][-1, :4] = torch.nan
        output["hiera_nan_count"] = 1
    evaluator = HieraSemSegEvaluator(name)
    evaluator.process(records, outputs)
    found = evaluator.evaluate()
    assert "2 images have NaN node values" in caplog.text
    for output, clean in zip(outputs[:2], model(records), strict=False):
        output["sem_seg"] = clean["sem_seg"]
        output["sem_seg"][0, :4] = 2.0
    evaluator.reset()
    evaluator.process(records, outputs)
    assert evaluator.evaluate() == found


def test_reset_starts_a_second_evaluation_from_nothing(dataset):
    name, records, truths = dataset
    evaluator = HieraSemSegEvaluator(name)
    run(evaluator, records, FakeModel(truths))
    second = run(evaluator, records[:1], FakeModel(truths))
    assert second == run(HieraSemSegEvaluator(name), records[:1], FakeModel(truths))
    assert evaluator.evaluate() == second
    assert pickle.loads(pickle.dumps(evaluator)).evaluate() == second


def test_only_some_images_with_direct_labels(dataset, caplog):
    name, records, truths = dataset
    evaluator = HieraSemSegEvaluator(name)
    evaluator.process(records[:1], FakeModel(truths)(records[:1]))
    evaluator.process(records[1:2], FakeModel(truths, ["hiera_labels"])(records[1:2]))
    assert "consistency" not in evaluator.evaluate()["sem_seg"]
    assert "1 of 2 images had direct labels" in caplog.text


def test_no_image_at_all_is_nan(dataset):
    name, *_ = dataset
    result = HieraSemSegEvaluator(name).evaluate()["sem_seg"]
    assert all(math.isnan(value) for value in result.values())


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_files_it_writes(dataset, tmp_path):
    name, records, truths = dataset
    for truth, record in zip(truths, records, strict=True):  # no bus in the set
        truth[truth == BUS] = CAR
        Image.fromarray(truth.astype(np.uint8)).save(record["sem_seg_file_name"])
    model = FakeModel(truths)
    out = tmp_path / "new" / "folder"
    evaluator = HieraSemSegEvaluator(name, output_dir=str(out), save_predictions=True)
    metrics = run(evaluator, records, model)["sem_seg"]

    summary = json.loads((out / "hiera_metrics.json").read_text())
    assert (summary["tree"], summary["dataset"], summary["images"]) == ("small", name, 3)
    assert summary["levels"] == ["group", "class"]
    assert math.isnan(metrics["IoU-bus"]) and summary["metrics"]["IoU-bus"] is None
    assert summary["metrics"] == {k: None if math.isnan(v) else v for k, v in metrics.items()}

    with np.load(out / "confusion_group.npz") as file:
        assert file["classes"].tolist() == ["sky", "flat", "vehicle"]
        matrix = file["matrix"]
        assert matrix.shape == file["direct_matrix"].shape == (4, 3)
        iou = matrix[2, 2] / (matrix[2].sum() + matrix[:, 2].sum() - matrix[2, 2])
        assert 100 * iou == pytest.approx(metrics["IoU-group-vehicle"])
        assert "predicted" in str(file["rows"]) and "true" in str(file["columns"])

    entries = json.loads((out / "hiera_predictions.json").read_text())
    drawn = np.full(SHAPES[0], -1)
    for entry in entries:
        if entry["file_name"] == records[0]["file_name"]:
            drawn[mask_util.decode(entry["segmentation"]) == 1] = entry["category_id"]
    np.testing.assert_array_equal(drawn, model.labels(0))

    # Predictions are not written unless requested, and those of an earlier evaluation removed
    run(HieraSemSegEvaluator(name, output_dir=str(out)), records, model)
    names = {"hiera_metrics.json", "confusion_group.npz", "confusion_class.npz"}
    assert {path.name for path in out.iterdir()} == names | {"image_counts.npz"}
    with pytest.raises(ValueError, match="save_predictions.*output_dir"):
        HieraSemSegEvaluator(name, save_predictions=True)


def test_a_model_with_another_tree_is_scored_in_its_own(dataset, tmp_path):
    name, records, truths = dataset
    own = Hierarchy.from_dict(
        {"world": {"vehicle": ["bus", "car"]}, "flat": ["path", "road"], "sky": None}
    )
    with pytest.raises(DatasetError, match="'vehicle/car'"):
        HieraSemSegEvaluator(name, hierarchy=own)
    own = Hierarchy.from_dict({"vehicle": ["bus", "car"], "flat": ["path", "road"], "sky": None})
    translate = np.array([own.paths.index(path) for path in TREE.paths])
    expected = run(HieraSemSegEvaluator(name), records, FakeModel(truths))["sem_seg"]
    cfg = new_config()
    cfg.OUTPUT_DIR, cfg.MODEL.HIERA_SEG.HIERARCHY = str(tmp_path), str(tmp_path / "own.yaml")
    own.to_yaml(cfg.MODEL.HIERA_SEG.HIERARCHY)
    for evaluator in (HieraSemSegEvaluator(name, hierarchy=own), build_hiera_evaluator(cfg, name)):
        for index, record in enumerate(records):
            labels = FakeModel(truths).predict(index)["hiera_labels"]
            labels = [torch.tensor(translate[values.numpy()]) for values in labels]
            evaluator.process([record], [{"hiera_labels": labels}])
        found = evaluator.evaluate()["sem_seg"]
        assert found["mIoU_level_0"] == pytest.approx(expected["mIoU_group"])
        assert found["IoU-car"] == expected["IoU-car"]
    assert (tmp_path / "hiera_metrics.json").is_file()


def test_two_metrics_of_one_name_in_the_models_tree_are_refused(dataset):
    name, *_ = dataset
    levels = ["group", "class"]
    own = {"sky": None, "flat": ["road", "path"], "vehicle": ["car", "bus"], "x": ["group-flat"]}
    with pytest.raises(DatasetError, match="'group-flat' and 'flat' at level 'group' would share"):
        HieraSemSegEvaluator(name, hierarchy=Hierarchy.from_dict(own, levels=levels))


def test_several_sets_do_not_overwrite_each_other(dataset):
    name, records, truths = dataset
    cfg = new_config()
    cfg.OUTPUT_DIR, cfg.DATASETS.TEST = str(Path(records[0]["file_name"]).parent), (name, "other")
    run(build_hiera_evaluator(cfg, name), records, FakeModel(truths))
    assert (Path(cfg.OUTPUT_DIR) / "inference" / name / "hiera_metrics.json").is_file()
    assert not (Path(cfg.OUTPUT_DIR) / "hiera_metrics.json").exists()


def good_output(index=0):
    return {"hiera_labels": [torch.zeros(SHAPES[index], dtype=torch.int64)] * 2}


def test_bad_ground_truth_names_the_file(dataset):
    name, records, _ = dataset
    evaluator = HieraSemSegEvaluator(name)
    image, label = records[0]["file_name"], records[0]["sem_seg_file_name"]
    with pytest.raises(DatasetError, match=r"nowhere\.png"):
        evaluator.process([{**records[0], "sem_seg_file_name": "nowhere.png"}], [good_output()])
    with pytest.raises(DatasetError, match="no ground truth for unknown.png"):
        evaluator.process([{"file_name": "unknown.png"}], [good_output()])
    bare = {k: v for k, v in records[0].items() if k != "sem_seg_file_name"}
    twice = [*records, {**records[0], "sem_seg_file_name": "second.png"}]
    register_hierarchical_dataset(f"{name}_twice", lambda: twice, hierarchy=TREE)
    with pytest.raises(DatasetError, match=rf"{image}: {label} and second\.png"):
        HieraSemSegEvaluator(f"{name}_twice").process([bare], [good_output()])
    other = {**records[0], "sem_seg_file_name": records[1]["sem_seg_file_name"]}
    with pytest.raises(DatasetError, match=rf"image {image} is 17x12, label .*label1\.png is 30x9"):
        evaluator.process([other], [good_output()])
    Image.fromarray(np.full(SHAPES[0], 9, np.uint8)).save(label)
    with pytest.raises(DatasetError, match=rf"{label}: ids 9"):
        evaluator.process(records[:1], [good_output()])


@pytest.mark.parametrize("form", ["list", "alone", "bytes"])
def test_one_map_of_nodes_gives_every_level(dataset, form):
    name, records, _ = dataset
    whole, single = HieraSemSegEvaluator(name), HieraSemSegEvaluator(name)
    for index, record in enumerate(records):
        last = torch.randint(0, 5, SHAPES[index], generator=torch.Generator().manual_seed(index))
        whole.process([record], [{"hiera_labels": [torch.zeros_like(last), last]}])
        last = last.to(torch.uint8).numpy() if form == "bytes" else last
        single.process([record], [{"hiera_labels": [last] if form == "list" else last}])
    expected, found = whole.evaluate()["sem_seg"], single.evaluate()["sem_seg"]
    assert {"mIoU", "mIoU_group"} <= found.keys()
    np.testing.assert_equal(found, expected)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (good_output(1), "prediction .* 9 x 30.* ground truth 12 x 17"),
        ({"sem_seg": torch.zeros(5, 9, 30)}, "prediction .* 9 x 30"),
        ({"sem_seg": torch.zeros(7, 12, 17)}, r"shape \(7, 12, 17\).*\(5, H, W\).*'small'"),
        ({"hiera_labels": [torch.zeros(SHAPES[0])] * 2}, "float32"),
        ({"hiera_labels": good_output()["hiera_labels"][:1] * 3}, "holds 3 maps.* 2 levels"),
        ({"hiera_labels": [torch.full(SHAPES[0], 7)] * 2}, "prediction holds 7"),
        (
            {**good_output(), "hiera_labels_direct": [torch.full(SHAPES[0], ROAD)] * 2},
            "direct labels of level 'group' holds 1",
        ),
        ({"instances": None}, r"neither 'hiera_labels' nor 'sem_seg', only \['instances'\]"),
    ],
)
def test_bad_prediction_names_the_image(dataset, output, message):
    name, records, _ = dataset
    with pytest.raises(ValueError, match=rf"bad prediction of .*image0\.png.*: .*{message}"):
        HieraSemSegEvaluator(name).process(records[:1], [output])


@pytest.mark.parametrize("other_tree", [False, True])
def test_a_dataset_leaves_classes_out_of_its_means(dataset, other_tree):
    name, records, truths = dataset
    MetadataCatalog.get(name).set(unscored_classes=["vehicle/bus"], void_classes=["dust", "glare"])
    tree = TREE.with_leaf_order(["bus", "sky", "car", "road", "path"]) if other_tree else None
    evaluator = HieraSemSegEvaluator(name, distributed=False, hierarchy=tree)
    for record, truth in zip(records, truths, strict=True):
        leaf = np.where(truth == 255, ROAD, (truth * 3 + truth // 2) % TREE.num_leaves)
        if other_tree:
            leaf = np.array([tree.id(f"/{path}") for path in TREE.paths])[leaf]
        evaluator.process([record], [{"hiera_labels": [leaf, leaf]}])
    found = evaluator.evaluate()["sem_seg"]
    iou = {leaf: found[f"IoU-{leaf}"] for leaf in TREE.leaf_names}
    assert found["mIoU"] == pytest.approx(np.mean([iou[k] for k in iou if k != "bus"]))
    assert found["mIoU_all"] == pytest.approx(sum(iou.values()) / 7)
    assert len(set(iou.values())) > 1


def test_classes_left_out_of_the_means_stay_out_in_a_finer_tree(dataset):
    name, records, truths = dataset
    MetadataCatalog.get(name).set(unscored_classes=["vehicle/bus"])
    parts = {"sky": None, "flat": ["road", "path"], "vehicle": {"car": None, "bus": ["b1", "b2"]}}
    tree = Hierarchy.from_dict(parts, levels=["group", "class", "part"])
    to_finer = np.array([tree.id(f"/{path}") for path in TREE.paths])
    found = []
    for other, ids in ((None, np.arange(TREE.num_nodes)), (tree, to_finer)):
        evaluator = HieraSemSegEvaluator(name, distributed=False, hierarchy=other)
        for index, record in enumerate(records):
            labels = ids[FakeModel(truths).labels(index)]
            evaluator.process([record], [{"hiera_labels": labels}])
        found.append(evaluator.evaluate()["sem_seg"])
    for key in ("mIoU_group", "mIoU_class", "mACC_class", "fwIoU_class"):
        assert found[0][key] == found[1][key]


def test_pixels_without_a_prediction_have_no_region_and_no_confidence(dataset, tmp_path):
    name, records, truths = dataset
    missing = truths[0] == ROAD
    labels = FakeModel(truths).labels(0)
    output = {"hiera_confidence": [np.random.default_rng(0).random(labels.shape)] * 2}
    evaluator = HieraSemSegEvaluator(
        name, distributed=False, output_dir=str(tmp_path), save_predictions=True
    )
    some = {"hiera_labels": np.where(missing, 250, labels), "hiera_unpredicted": missing}
    evaluator.process(records[:1], [output | some])
    found = evaluator.evaluate()["sem_seg"]
    regions = json.loads((tmp_path / "hiera_predictions.json").read_text())
    assert sum(mask_util.area(x["segmentation"]) for x in regions) == (~missing).sum()

    truth = np.where(missing, 255, truths[0]).astype(np.uint8)  # the same pixels do not count
    Image.fromarray(truth).save(records[0]["sem_seg_file_name"])
    evaluator.reset()
    evaluator.process(records[:1], [output | {"hiera_labels": labels}])
    expected = evaluator.evaluate()["sem_seg"]
    assert [found[key] for key in ("ECE_group", "ECE_class")] == [
        expected[key] for key in ("ECE_group", "ECE_class")
    ]


@pytest.mark.parametrize("dense_classes", [2048, 2])
def test_confusion_matrices_of_many_classes_are_written_as_cells(
    dense_classes, dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(confusion_files, "_MAX_DENSE_CLASSES", dense_classes)
    name, records, truths = dataset
    run(HieraSemSegEvaluator(name, output_dir=str(tmp_path)), records, FakeModel(truths))
    counts = PathCounts(TREE)
    for index, truth in enumerate(truths):
        counts.add(FakeModel(truths).labels(index), truth)
    path = tmp_path / "confusion_class.npz"
    matrix, classes = read_confusion(path)
    np.testing.assert_array_equal(matrix, collapse_nodes(counts.nodes, TREE, "class"))
    assert classes == list(TREE.leaf_names)
    with np.load(path) as arrays:
        assert ("matrix" in arrays) == (dense_classes == 2048)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DatasetError, match="confusion_class.npz cannot be read"):
        read_confusion(path)
