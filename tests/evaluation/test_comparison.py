"""Runs compared from the counts of their images."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.errors import DatasetError
from hiera_seg.evaluation import (
    HieraSemSegEvaluator,
    ImageCounts,
    compare_runs,
    comparison_tables,
    evaluate_predictions,
    read_run,
)
from hiera_seg.evaluation.comparison import NO_DIFFERENCE
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.metrics import PathCounts, hierarchy_scores

TREE = Hierarchy.from_dict(
    {"sky": None, "flat": ["road", "path"], "vehicle": ["car", "bus"], "rare": ["ufo"]},
    levels=["group", "class"],
)
SKY, ROAD, PATH, CAR, BUS, UFO = range(6)
NUM_IMAGES = 30


def truths(seed=0):
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, BUS + 1, (NUM_IMAGES, 20, 30))
    maps[rng.random(maps.shape) < 0.1] = 255
    return maps


def predict(maps, seed, wrong):
    """Replace a share of the pixels of each class by another class: {class: (other, share)}."""
    rng = np.random.default_rng(seed)
    found = np.where(maps == 255, SKY, maps)
    for leaf, (other, share) in wrong.items():
        found[(maps == leaf) & (rng.random(maps.shape) < share)] = other
    return found


def counted(predictions, maps=None, tree=TREE, names=None):
    maps = truths() if maps is None else maps
    counts = PathCounts(tree)
    names = names or [f"/data/test/{i:02}.png" for i in range(len(maps))]
    found = [(name, counts.add(p, t)) for name, p, t in zip(names, predictions, maps, strict=True)]
    return ImageCounts.of("toy", tree, found), counts


BASE = {CAR: (BUS, 0.2), ROAD: (PATH, 0.2)}


def test_known_differences_are_found_and_others_called_noise():
    maps = truths()
    first, counts = counted(predict(maps, 1, BASE))
    second, better = counted(predict(maps, 2, {CAR: (BUS, 0.2), ROAD: (PATH, 0.1)}))
    found = compare_runs([first], [second], names=("a", "b"))
    assert (found.num_images, found.num_pairs) == (NUM_IMAGES, 1)
    of_class = {row.name: row for row in found.levels[1].classes}
    assert of_class["road"].verdict == of_class["path"].verdict == "better"
    assert of_class["car"].verdict == of_class["bus"].verdict == NO_DIFFERENCE
    assert of_class["sky"].verdict == NO_DIFFERENCE and of_class["sky"].difference == 0
    assert np.isnan(of_class["ufo"].difference) and of_class["ufo"].num_images == 0
    for level, name in enumerate(TREE.level_names):
        scores = [hierarchy_scores(part).merged[level] for part in (counts, better)]
        row = found.levels[level]
        assert row.name == name
        assert row.miou.baseline == pytest.approx(100 * scores[0].miou)
        assert row.miou.score == pytest.approx(100 * scores[1].miou)
        assert row.miou.difference == pytest.approx(row.miou.score - row.miou.baseline)
        for part, one, two in zip(row.classes, scores[0].iou, scores[1].iou, strict=True):
            assert part.baseline == pytest.approx(100 * one, nan_ok=True)
            assert part.score == pytest.approx(100 * two, nan_ok=True)
    # Siblings are confused, so that nothing differs a level above.
    assert found.levels[0].miou.verdict == NO_DIFFERENCE
    assert found.levels[1].miou.low < found.levels[1].miou.difference < found.levels[1].miou.high
    assert found.levels[1].miou.verdict == "better"
    backward = compare_runs([second], [first])
    assert backward.levels[1].miou.verdict == "worse"


def test_a_class_in_few_images_has_no_verdict():
    maps = truths()
    maps[:4, :10] = UFO
    runs = [counted(predict(maps, 1, {UFO: (BUS, share)}), maps)[0] for share in (0.5, 0.1)]
    row = compare_runs([runs[0]], [runs[1]]).levels[1].classes[UFO]
    assert row.num_images == 4 and row.low > 0 and row.verdict == "too few images"
    maps[4, :10] = UFO
    runs = [counted(predict(maps, 1, {UFO: (BUS, share)}), maps)[0] for share in (0.5, 0.1)]
    assert compare_runs([runs[0]], [runs[1]]).levels[1].classes[UFO].verdict == "better"


def test_pairs_of_runs_are_averaged_and_must_agree():
    maps = truths()
    runs = [counted(predict(maps, seed, BASE))[0] for seed in range(2)]
    worse = [counted(predict(maps, 5, {CAR: (BUS, share)}))[0] for share in (0.9, 0.1)]
    found = compare_runs(runs, worse)
    single = [compare_runs([a], [b]) for a, b in zip(runs, worse, strict=True)]
    rows = [one.levels[1].classes[CAR] for one in single]
    assert [row.verdict for row in rows] == ["worse", "better"]
    row = found.levels[1].classes[CAR]
    assert row.difference == pytest.approx(np.mean([r.difference for r in rows]))
    assert row.high < 0 and row.verdict == NO_DIFFERENCE and found.num_pairs == 2
    with pytest.raises(DatasetError, match="a has 2 runs, but b 1"):
        compare_runs(runs, worse[:1], names=("a", "b"))


def test_what_cannot_be_compared_is_named():
    maps = truths()
    first, _ = counted(predict(maps, 1, BASE))
    other, _ = counted(predict(maps, 1, BASE), tree=Hierarchy.from_dict(TREE.to_dict()["tree"]))
    with pytest.raises(DatasetError, match="flat and tree: .*order or level names"):
        compare_runs([first], [other], names=("flat", "tree"))
    changed = Hierarchy.from_dict({"air": ["sky"], "rest": ["a", "b", "c", "d", "e"]})
    other, _ = counted(predict(maps, 1, BASE), tree=changed)
    with pytest.raises(DatasetError, match="'air'"):
        compare_runs([first], [other])
    names = [f"/other/{i:02}.png" for i in range(NUM_IMAGES - 1)] + ["/other/new.png"]
    other, _ = counted(predict(maps, 1, BASE), names=names)
    with pytest.raises(DatasetError, match="test sets differ.*'29.png'"):
        compare_runs([first], [other])
    other, _ = counted(predict(maps, 1, BASE)[:20], maps[:20])
    with pytest.raises(DatasetError, match="on 30 images of 'toy', .* on 20 images of 'toy'"):
        compare_runs([first], [other])
    with pytest.raises(DatasetError, match="ground truth differs"):
        compare_runs([first], [dataclasses.replace(first, unscored=(SKY,))])
    maps[7, 0, 0] = (maps[7, 0, 0] + 1) % 5
    other, _ = counted(predict(maps, 1, BASE), maps)
    with pytest.raises(DatasetError, match="ground truth of 07.png"):
        compare_runs([first], [other])


def test_tables():
    maps = truths()
    first, _ = counted(predict(maps, 1, BASE))
    second, _ = counted(predict(maps, 2, {CAR: (BUS, 0.2)}))
    found = compare_runs([first], [second], names=("flat", "tree"))
    text = comparison_tables(found)
    row = found.levels[1].miou
    line = next(line for line in text.split("\n") if line.startswith("| class"))
    for number in (f"{row.score:.2f}", f"{row.difference:+.2f}", f"[{row.low:+.2f}", "better"):
        assert number in line
    absent = next(line for line in text.split("\n") if line.startswith("| ufo"))
    assert [cell.strip() for cell in absent.split("|")[2:-1]] == ["0", "-", "-", "-", "-", "-"]
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["levels"][1]["name"] == "class"


def test_counts_are_saved_small_and_read_back(tmp_path):
    counts, _ = counted(predict(truths(), 1, BASE))
    path = tmp_path / "image_counts.npz"
    counts.save(path)
    found = read_run(tmp_path)
    assert found.hierarchy == TREE and found.images == counts.images
    assert found.images[:2] == ("00.png", "01.png") and found.dataset == "toy"
    for name in ("image", "predicted", "true", "pixels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(counts, name))
    assert path.stat().st_size < 100 * NUM_IMAGES
    assert [file.name for file in tmp_path.iterdir()] == ["image_counts.npz"]


def test_unusable_runs_are_named(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(DatasetError, match=f"{folder}: found 0 files image_counts.npz"):
            read_run(folder)
    counts, _ = counted(truths() % 5, truths())
    for name in ("a", "b"):
        (tmp_path / "inference" / name).mkdir(parents=True)
        counts.save(tmp_path / "inference" / name / "image_counts.npz")
        if name == "a":
            assert read_run(tmp_path).images == counts.images
    with pytest.raises(DatasetError, match=r"found 2 files .*; pass one of .*inference/a"):
        read_run(tmp_path)
    counts.save(tmp_path / "image_counts.npz")
    (tmp_path / "inference/b/image_counts.npz").unlink()
    with pytest.raises(DatasetError, match=r"found 2 files"):  # either could be the older one
        read_run(tmp_path)
    read_run(tmp_path / "image_counts.npz")
    for content in (b"", b"no zip", (tmp_path / "inference/a/image_counts.npz").read_bytes()[:400]):
        (tmp_path / "image_counts.npz").write_bytes(content)
        with pytest.raises(DatasetError, match=r"image_counts.npz: cannot be read"):
            read_run(tmp_path / "image_counts.npz")
    with np.load(tmp_path / "inference/a/image_counts.npz") as arrays:
        damaged = dict(arrays)
    damaged["true"] = damaged["true"] + 50
    np.savez(tmp_path / "image_counts.npz", **damaged)
    with pytest.raises(DatasetError, match="do not fit"):
        read_run(tmp_path / "image_counts.npz")


@pytest.fixture
def dataset(tmp_path):
    name = f"comparison_{tmp_path.name}"
    maps = truths()[:3]
    for folder, values in (("labels", maps), ("predictions", np.where(maps == 255, SKY, maps))):
        (tmp_path / folder).mkdir()
        for i, one in enumerate(values):
            Image.fromarray(one.astype(np.uint8)).save(tmp_path / folder / f"{i}.png")
    files = [str(tmp_path / "labels" / f"{i}.png") for i in range(3)]
    records = [{"file_name": file, "sem_seg_file_name": file} for file in files]
    register_hierarchical_dataset(name, records, hierarchy=TREE, unscored_classes=["path"])
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_evaluator_and_predictions_write_the_same_counts(dataset, tmp_path):
    evaluator = HieraSemSegEvaluator(dataset, output_dir=str(tmp_path / "one"))
    records, maps = DatasetCatalog.get(dataset), truths()[:3]
    for record in reversed(records):
        labels = maps[int(record["file_name"].split("/")[-1][0])]
        evaluator.process([record], [{"hiera_labels": np.where(labels == 255, SKY, labels)}])
    evaluator.evaluate()
    evaluate_predictions(dataset, tmp_path / "predictions", output_dir=tmp_path / "two")
    first, second = read_run(tmp_path / "one"), read_run(tmp_path / "two")
    assert first.images == second.images == ("0.png", "1.png", "2.png")
    assert first.unscored == second.unscored == (PATH,)
    for name in ("image", "predicted", "true", "pixels"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    row = compare_runs([first], [second]).levels[1].miou
    assert row.baseline == 100 and row.difference == 0
    shutil.copy(tmp_path / "predictions/0.png", tmp_path / "predictions/1.png")
    evaluate_predictions(dataset, tmp_path / "predictions", output_dir=tmp_path / "two")
    row = compare_runs([first], [read_run(tmp_path / "two")]).levels[1].miou
    assert row.difference < 0
