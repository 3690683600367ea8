import csv
import zipfile

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg.data import LabelReader
from hiera_seg.hierarchy import Hierarchy


def test_leaves_are_the_classes_in_the_order_of_their_ids(sample):
    with open(sample("ade20k_150/objectInfo150.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    tree = Hierarchy.load("ade20k_150")
    assert (tree.num_leaves, tree.num_nodes, tree.num_levels) == (150, 183, 3)
    assert [int(row["Idx"]) for row in rows] == list(range(1, 151))
    for row, leaf in zip(rows, tree.leaf_names, strict=True):
        words = leaf.split()  # that table separates words and names alike
        assert row["Name"].split(";")[: len(words)] == words


def test_real_samples_read_as_ids_less_one(sample, linked):
    folder = sample("ade20k_150")
    linked(
        {
            "ADEChallengeData2016/images/validation": folder / "images",
            "ADEChallengeData2016/annotations/validation": folder / "annotations",
        }
    )
    records = DatasetCatalog.get("hiera_ade20k_val")
    assert len(records) == 3
    reader = LabelReader.from_metadata(MetadataCatalog.get("hiera_ade20k_val"))
    for record in records:
        raw = np.asarray(Image.open(record["sem_seg_file_name"])).astype(int)
        assert (raw == 0).any()
        labels = reader(record["sem_seg_file_name"])
        assert np.array_equal(labels, np.where(raw == 0, 255, raw - 1))


# -- the prepare script -------------------------------------------------------------------------


@pytest.fixture
def release(tmp_path):
    """A made-up release of two images, in a folder and in a zip with other files beside it."""
    folder = tmp_path / "ADEChallengeData2016"
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        for what, suffix, mode in (("images", "jpg", "RGB"), ("annotations", "png", "L")):
            (folder / what / split).mkdir(parents=True)
            Image.new(mode, (8, 6)).save(folder / what / split / f"{name}.{suffix}")
    leaves = Hierarchy.load("ade20k_150").leaf_names
    lines = ["Idx\tRatio\tTrain\tVal\tName"]
    lines += [f"{i}\t0.1\t10\t1\t{leaf}, other name   " for i, leaf in enumerate(leaves, 1)]
    (folder / "objectInfo150.txt").write_text("\n".join(lines))
    (folder / "sceneCategories.txt").write_text("not needed")
    with zipfile.ZipFile(tmp_path / "release.zip", "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(tmp_path))
    return tmp_path


@pytest.fixture
def prepare(tmp_path, start_tool):
    run = start_tool("../datasets/prepare_ade20k")
    return lambda what, out="out/ADEChallengeData2016": run(
        "--release", tmp_path / what, "--out", tmp_path / out
    )


@pytest.mark.parametrize("what", ["release.zip", "ADEChallengeData2016"])
def test_a_release_goes_where_the_dataset_is_read(release, prepare, monkeypatch, what):
    out = release / "out/ADEChallengeData2016"
    code, text, err = prepare(what)
    assert (code, err) == (0, "")
    assert text == f"1 images of train in {out}\n1 images of val in {out}\n"
    assert not (out / "sceneCategories.txt").exists()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(release / "out"))
    for split in ("train", "val"):
        assert len(DatasetCatalog.get(f"hiera_ade20k_{split}")) == 1


def test_a_release_in_its_place_is_only_checked(release, prepare):
    assert prepare("ADEChallengeData2016", "ADEChallengeData2016")[0] == 0


def test_bad_releases_are_one_line(release, prepare):
    assert prepare("nowhere")[::2] == (1, f"error: no such zip or folder: {release}/nowhere\n")
    (release / "bad.zip").write_bytes(b"no zip")
    code, _, err = prepare("bad.zip")
    assert code == 1 and err.startswith(f"error: cannot unpack {release}/bad.zip: ")
    with zipfile.ZipFile(release / "empty.zip", "w"):
        pass
    assert prepare("empty.zip")[::2] == (
        1, f"error: {release}/empty.zip has no file in ADEChallengeData2016/images/training/\n",
    )  # fmt: skip

    folder = release / "ADEChallengeData2016"
    table = folder / "objectInfo150.txt"
    text = table.read_text()
    table.write_text(text.replace("\ttree,", "\tshrub,"))
    code, _, err = prepare("ADEChallengeData2016")
    assert code == 1
    copied = release / "out/ADEChallengeData2016/objectInfo150.txt"
    assert err == f"error: {copied}, line 6: class 5 is 'shrub', in the tree 'tree'\n"
    table.write_text("\n".join(text.splitlines()[:-1]))
    assert prepare("ADEChallengeData2016")[::2] == (
        1, f"error: {copied} lists 149 classes, the tree has 150\n",
    )  # fmt: skip
    table.write_text(text)
    label = folder / "annotations/validation/ADE_val_00000001.png"
    label.rename(label.with_name("ADE_val_00000002.png"))
    code, _, err = prepare("ADEChallengeData2016", "ADEChallengeData2016")
    image = folder / "images/validation/ADE_val_00000001.jpg"
    assert code == 1 and err.startswith(f"error: 1 image without a label: '{image}'; 1 label ")
