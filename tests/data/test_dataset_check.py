import csv

import numpy as np
import pytest
from check_dataset import format_reports
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg.data import register_hierarchical_dataset
from hiera_seg.data.dataset_check import check_dataset, warn_of_absent_leaves
from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy import Hierarchy


@pytest.fixture
def labels(tree):
    rng = np.random.default_rng(1)
    labels = {f"{i}": rng.choice([0, 1, 2, 9, 30], (12, 10)).astype(np.uint8) for i in range(4)}
    labels["3"][:] = 30
    return labels


# 0 and 9 are road, 1 is left-arm, 2 is the inner node body, 30 is void.
LABEL_MAP = {0: "road", 1: "left-arm", 2: "body", 9: "road", 30: None}


@pytest.fixture
def toy(register, labels):
    return register("toy", labels, label_map=LABEL_MAP)


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
    assert "ancestor_matrix" not in vars(report.hierarchy)


def test_every_problem_is_one_line(toy):
    image_root, label_root = toy
    Image.new("L", (11, 12)).save(label_root / "0.png")
    Image.fromarray(np.full((12, 10), 77, np.uint8)).save(label_root / "1.png")
    (image_root / "2.png").write_bytes((image_root / "2.png").read_bytes()[:80])
    Image.new("RGB", (10, 12)).save(image_root / "alone.png")
    report = check_dataset("toy")
    expected = [
        f"dataset 'toy': 1 image without a label: '{image_root}/alone.png' (",
        f"size differs: image {image_root}/0.png is 10x12, label {label_root}/0.png is 11x12",
        f"{label_root}/1.png: raw ids 77 are not in the label map of dataset 'toy'",
        f"cannot read image file {image_root}/2.png: ",
    ]
    assert len(report.problems) == 4
    for problem, start in zip(report.problems, expected, strict=True):
        assert problem.startswith(start) and "\n" not in problem
    assert report.num_images == 4 and report.void_pixels == report.num_pixels == 120


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


# -- values of images, orientations and absent leaves ----------------------------------------


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 8])
def test_an_orientation_that_the_label_lacks_is_a_warning(photo, orientation, quick):
    _, record = photo(orientation)
    report = check_dataset("photos", quick=quick)
    assert report.problems == []
    (warning,) = report.warnings
    words = ("1 image(s)", "EXIF", record["file_name"], f"orientation {orientation}", "INPUT.EXIF")
    assert all(word in warning for word in words)


def test_the_same_orientation_is_none_to_warn_of(photo):
    photo(3, label_orientation=3)
    assert check_dataset("photos").warnings == []


def test_a_size_that_an_orientation_swaps_names_the_key(photo):
    photo(6, size=(8, 9))
    (problem,) = check_dataset("photos").problems
    assert "size differs" in problem and "INPUT.EXIF" in problem
    assert check_dataset("photos", exif="ignore").problems == []


def test_the_check_tells_the_values_that_it_saw(register):
    image_root, _ = register("deep", {name: np.zeros((4, 6), np.uint8) for name in "abc"})
    ramp = (np.arange(24).reshape(4, 6) * 2500).astype(np.uint16)
    Image.fromarray(ramp // 32 + 100).save(image_root / "a.png")
    (image_root / "b.png").unlink()
    floats = np.linspace(0, 0.5, 24, dtype=np.float32).reshape(4, 6)
    Image.fromarray(floats).save(image_root / "b.tif")
    report = check_dataset("deep")
    assert report.problems == []
    assert report.image_values == {
        "16-bit": (100, 57500 // 32 + 100, 1), "float": (0, 0.5, 1), "8-bit": (0, 0, 1)
    }  # fmt: skip
    deep, single = report.warnings
    assert "16-bit" in deep and "100 to 1896 keep 8 of 256" in deep and "INPUT.IMAGE_RANGE" in deep
    assert "float" in single and "0 to 0.5" in single and "INPUT.IMAGE_RANGE" in single
    assert check_dataset("deep", quick=True).image_values == {}
    # 16 bits that are used are no reason to warn
    for name in ("a.png", "b.tif"):
        Image.fromarray(ramp).save(image_root / name)
    assert check_dataset("deep").warnings == []


@pytest.fixture
def mask(register):
    """A function that registers masks of 0 and 255 under a tree of two leaves."""

    def make(name, label_map=None, values=(0, 255)):
        labels = {"a": np.resize(np.array(values, np.uint8), (6, 6))}
        register(name, labels, hierarchy=["background", "vessel"], label_map=label_map)
        return check_dataset(name)

    return make


def test_a_mask_of_0_and_255_without_a_label_map_is_a_problem(mask):
    (problem,) = mask("masks").problems
    assert "never occur: 'vessel'" in problem and "255 (18 pixels" in problem
    assert mask("mapped", {0: "background", 255: "vessel"}).problems == []
    assert mask("decided", {0: "background", 1: "vessel", 255: None}).problems == []
    assert mask("whole", values=(0, 1, 255)).problems == []
    assert mask("no_void", values=(0,)).problems == []


def test_leaves_known_by_an_inner_node_are_no_problem(tree, register):
    register("coarse", {"a": np.resize(np.array([0, 1, tree["body"], 255], np.uint8), (6, 6))})
    assert check_dataset("coarse").problems == []


def test_leaves_without_ground_truth_are_warned_of(mask, caplog):
    def warned(name, tree=("background", "vessel")):
        caplog.clear()
        warn_of_absent_leaves(name, Hierarchy.from_dict(list(tree)))
        return " ".join(record.getMessage() for record in caplog.records)

    mask("masks")
    for words in ("vessel", "masks", "1 of the 1 label files", "raw id 255 is void"):
        assert words in warned("masks")
    mask("rare", values=(0,))
    assert "vessel" in warned("rare") and "raw id" not in warned("rare")
    mask("mapped", {0: "background", 255: "vessel"})
    assert warned("mapped") == ""
    assert "other" in warned("mapped", ("background", "vessel", "other"))
    mask("left_out", values=(0, 255))
    MetadataCatalog.get("left_out").unscored_classes = ["vessel"]
    assert warned("left_out") == ""
