import csv

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.data.dataset_check import check_dataset, format_reports
from hiera_seg.errors import DatasetError


@pytest.fixture
def labels(tree):
    rng = np.random.default_rng(1)
    labels = {f"{i}": rng.choice([0, 1, 2, 9, 30], (12, 10)).astype(np.uint8) for i in range(4)}
    labels["3"][:] = 30
    return labels


# 0 and 9 are road, 1 is left-arm, 2 is the inner node body, 30 is void.
LABEL_MAP = {0: "road", 1: "left-arm", 2: "body", 9: "road", 30: None}


@pytest.fixture
def toy(tree, folders, labels):
    roots = folders(labels)
    register_hierarchical_dataset(
        "toy", hierarchy=tree, image_root=roots[0], sem_seg_root=roots[1], label_map=LABEL_MAP
    )
    return roots


@pytest.mark.parametrize("quick", [False, True])
def test_counts_are_those_of_a_loop(tree, labels, toy, quick):
    report = check_dataset("toy", quick=quick)
    assert report.problems == [] and report.num_images == 4
    everything = np.stack(list(labels.values()))
    road, arm, body, void = (
        int(np.isin(everything, ids).sum()) for ids in ([0, 9], [1], [2], [30])
    )
    pixels = dict.fromkeys(range(tree.num_nodes), 0)
    pixels.update({tree["road"]: road, tree["left-arm"]: arm, tree["body"]: body})
    assert dict(enumerate(report.node_pixels.tolist())) == pixels
    assert (report.void_pixels, report.num_pixels) == (void, 480)
    assert report.subtree_pixels[tree["body"]] == arm + body
    assert report.subtree_pixels[tree["left"]] == arm
    assert report.subtree_pixels[tree["ground"]] == road
    shown = {tree.node_names[v]: n for v, n in enumerate(report.node_images.tolist()) if n}
    assert shown == {"road": 3, "ground": 3, "left-arm": 3, "left": 3, "body": 3}
    assert report.absent_leaves == ["grass", "right-arm", "head"]


def test_every_problem_is_one_line(toy):
    image_root, label_root = toy
    Image.new("L", (11, 12)).save(label_root / "0.png")
    Image.fromarray(np.full((12, 10), 77, np.uint8)).save(label_root / "1.png")
    (image_root / "2.png").write_bytes((image_root / "2.png").read_bytes()[:80])
    Image.new("RGB", (10, 12)).save(image_root / "alone.png")
    report = check_dataset("toy")
    expected = [
        f"dataset 'toy': 1 image without a label: {image_root}/alone.png (",
        f"size differs: image {image_root}/0.png is 10x12, label {label_root}/0.png is 11x12",
        f"{label_root}/1.png: raw ids [77] are not in the label map of dataset 'toy'",
        f"cannot read image file {image_root}/2.png: ",
    ]
    assert len(report.problems) == 4
    for problem, start in zip(report.problems, expected, strict=True):
        assert problem.startswith(start) and "\n" not in problem
    assert report.num_images == 4 and report.void_pixels == report.num_pixels == 120


def test_a_missing_folder_is_a_problem(tree, tmp_path):
    register_hierarchical_dataset("gone", hierarchy=tree, image_root=tmp_path / "no")
    assert check_dataset("gone").problems == [
        f"dataset 'gone': image folder not found: {tmp_path}/no"
    ]


def test_images_without_labels_are_a_problem(tree, toy):
    register_hierarchical_dataset("bare", hierarchy=tree, image_root=toy[0])
    assert len(check_dataset("bare").problems) == 4


def test_told_sizes_are_compared(tree, toy):
    register_hierarchical_dataset(
        "told", lambda: [{**r, "height": 9} for r in DatasetCatalog.get("toy")], hierarchy=tree
    )
    assert "its dataset lists 10x9 (width x height)" in check_dataset("told").problems[0]


def test_quick_knows_turned_photos(tree, toy):
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (12, 10)).save(toy[0] / "0.png", exif=exif)
    assert check_dataset("toy", quick=True).problems == []
    assert check_dataset("toy").problems == []


def test_a_dataset_without_a_tree_is_refused():
    DatasetCatalog.register("plain", list)
    with pytest.raises(DatasetError, match="'plain' has no class tree"):
        check_dataset("plain")


def test_the_table_adds_up(tree, toy):
    text = format_reports([check_dataset("toy"), check_dataset("toy")])
    lines = text.splitlines()
    cells = next(line for line in lines if line.startswith("all")).split()
    assert cells == ["all", *["4", "480", "100.0000"] * 2]
    tops = [line.split() for line in lines if line.startswith(("ground", "body", "void"))]
    shares = sum(float(line[-1]) for line in tops)
    assert shares == pytest.approx(100, abs=1e-3)
    assert "(no finer)" in text  # labels that stop at body
    assert lines[-1] == "toy: no pixel of grass, right-arm, head"


def test_camvid_has_the_published_shares(shared_datasets, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared_datasets))
    report = check_dataset("hiera_camvid_val", quick=True)
    assert report.problems == [] and report.num_images == 101
    with open(shared_datasets / "camvid/classes.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["name"] == "Void":
                pixels = report.void_pixels
            else:
                node = report.hierarchy[row["name"]]
                pixels = report.node_pixels[node]
                assert report.node_images[node] == int(row["val_imgs"])
            share = 100 * pixels / report.num_pixels
            assert share == pytest.approx(float(row["val_px%"]), abs=5.1e-5)
