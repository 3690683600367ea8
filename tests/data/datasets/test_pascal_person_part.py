import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg.data import LabelReader
from hiera_seg.data.datasets.pascal_person_part import PARTS
from hiera_seg.hierarchy import Hierarchy
from tests.helpers import plain_mapper


@pytest.fixture
def root(shared_datasets, monkeypatch):
    if not (shared_datasets / "pascal_person_part").is_dir():
        pytest.skip(f"no folder {shared_datasets}/pascal_person_part")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared_datasets))
    return shared_datasets / "pascal_person_part"


def test_both_splits_are_whole_and_apart(root):
    stems = {}
    for split, count in (("train", 1716), ("test", 1817)):
        records = DatasetCatalog.get(f"hiera_pascal_person_part_{split}")
        assert len(records) == count
        stems[split] = {Path(record["file_name"]).stem for record in records}
        assert stems[split] == {Path(record["sem_seg_file_name"]).stem for record in records}
    assert not stems["train"] & stems["test"]


def test_the_tree_is_the_published_one(root):
    published = json.loads((root / "hierarchy.json").read_text())
    meta = MetadataCatalog.get("hiera_pascal_person_part_train")
    tree = Hierarchy.from_dict(**meta.hierarchy)
    assert tree == Hierarchy.from_dict(**published)
    assert (tree.num_leaves, tree.num_nodes, tree.num_levels) == (7, 12, 3)


def test_labels_are_the_palette_index(root):
    mapper = plain_mapper(Hierarchy.load("pascal_person_part"))
    for record in DatasetCatalog.get("hiera_pascal_person_part_test")[:3]:
        sample = mapper(record)
        raw = np.asarray(Image.open(record["sem_seg_file_name"]))
        assert raw.max() <= 6
        assert np.array_equal(sample["sem_seg"], raw)
        assert tuple(sample["image"].shape[1:]) == raw.shape


def test_every_part_of_the_release_has_one_class():
    tree = Hierarchy.load("pascal_person_part")
    parts = [part for parts in PARTS.values() for part in parts]
    # The 24 parts of a person that the release's documentation lists.
    sided = ["eye", "ear", "ebrow", "larm", "uarm", "hand", "lleg", "uleg", "foot"]
    single = ["head", "nose", "mouth", "hair", "torso", "neck"]
    assert sorted(parts) == sorted(single + [side + part for side in "lr" for part in sided])
    assert ["background", *PARTS] == list(tree.leaf_names)


# -- the prepare script -------------------------------------------------------------------------


def write_annotation(path: Path, objects: list[dict]) -> None:
    """A .mat file nested as the release's: anno.objects(i).parts(j).{part_name, mask}."""
    path.parent.mkdir(exist_ok=True, parents=True)

    def struct(items: list[dict]) -> np.ndarray:
        array = np.empty((1, len(items)), [(key, object) for key in items[0]])
        for index, item in enumerate(items):
            array[0, index] = tuple(item.values())
        return array

    objects = [
        {**item, "parts": struct(item["parts"]) if item["parts"] else np.empty((0, 0))}
        for item in objects
    ]
    scipy.io.savemat(path, {"anno": struct([{"imname": path.stem, "objects": struct(objects)}])})


def mask(*rows: int) -> np.ndarray:
    array = np.zeros((8, 6), np.uint8)
    array[list(rows)] = 1
    return array


def person(**parts: np.ndarray) -> dict:
    parts = [{"part_name": name, "mask": part} for name, part in parts.items()]
    return {"class": "person", "mask": mask(*range(8)), "parts": parts}


@pytest.fixture
def release(tmp_path):
    """VOC2010 with three images: two with parts, one with a dog alone; and one without a file."""
    main = tmp_path / "VOC2010/ImageSets/Main"
    main.mkdir(parents=True)
    (main / "train.txt").write_text("2008_000001\n2008_000002\n2008_000009\n")
    (main / "val.txt").write_text("2008_000003\n")
    images = tmp_path / "VOC2010/JPEGImages"
    images.mkdir()
    for number in (1, 2, 3, 9):
        Image.new("RGB", (6, 8), (number, 0, 0)).save(images / f"2008_00000{number}.jpg")
    dog = {**person(head=mask(0)), "class": "dog"}
    parts = tmp_path / "Annotations_Part"
    cat = {**person(head=mask(6)), "class": "cat"}  # in front of the foot
    write_annotation(parts / "2008_000001.mat", [dog, person(hair=mask(1), rfoot=mask(5, 6)), cat])
    write_annotation(parts / "2008_000002.mat", [dog, person()])
    write_annotation(
        parts / "2008_000003.mat",
        [
            person(torso=mask(2, 3), neck=mask(1), luarm=mask(3), rhand=mask(4)),
            person(ruleg=mask(7)),
        ],
    )
    return tmp_path


@pytest.fixture
def prepare(tmp_path, start_tool):
    folders = ["--voc", tmp_path / "VOC2010", "--parts", tmp_path / "Annotations_Part"]
    folders += ["--out", tmp_path / "pascal_person_part"]
    return partial(start_tool("../datasets/prepare_pascal_person_part"), *folders)


def test_annotations_become_labels_that_the_dataset_reads(release, prepare, monkeypatch):
    code, out, err = prepare()
    assert (code, err) == (0, "")
    assert out == (
        f"wrote 1 images of train (published: 1716) to {release}/pascal_person_part\n"
        f"wrote 1 images of test (published: 1817) to {release}/pascal_person_part\n"
    )
    monkeypatch.setenv("DETECTRON2_DATASETS", str(release))
    rows = {"train": [0, 1, 0, 0, 0, 6, 0, 0], "test": [0, 1, 2, 3, 4, 0, 0, 5]}
    for split, stem in (("train", "2008_000001"), ("test", "2008_000003")):
        name = f"hiera_pascal_person_part_{split}"
        (record,) = DatasetCatalog.get(name)
        assert Path(record["file_name"]).stem == stem
        labels = LabelReader.from_metadata(MetadataCatalog.get(name))(record["sem_seg_file_name"])
        assert np.array_equal(labels, np.repeat([rows[split]], 6, axis=0).T)
        original = release / f"VOC2010/JPEGImages/{stem}.jpg"
        assert Path(record["file_name"]).read_bytes() == original.read_bytes()


def test_images_are_shrunk_with_their_labels(release, prepare):
    assert prepare("--long-side", "4")[0] == 0
    folder = release / "pascal_person_part"
    assert Image.open(folder / "images/2008_000003.jpg").size == (3, 4)
    label = np.asarray(Image.open(folder / "labels/2008_000003.png"))
    assert np.array_equal(label[:, 0], [1, 3, 0, 5])  # rows 1, 3, 5, 7


def test_bad_releases_are_one_line(release, prepare):
    for side in ("0", "-5"):
        assert prepare("--long-side", side)[::2] == (
            2, f"error: --long-side is {side}; it must be 1 or more\n",
        )  # fmt: skip
    assert prepare("--parts", "nowhere")[::2] == (1, "error: folder not found: nowhere\n")
    assert prepare("--lists", "nowhere")[::2] == (
        1, "error: list of files not found: nowhere/train.txt\n",
    )  # fmt: skip
    lists = release / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("2008_000009\n")
    (lists / "test.txt").write_text("2008_000003\n")
    parts = release / "Annotations_Part"
    assert prepare("--lists", str(lists))[::2] == (
        1, f"error: annotation file not found: {parts}/2008_000009.mat\n",
    )  # fmt: skip

    file = parts / "2008_000003.mat"
    write_annotation(file, [person(tail=mask(1))])
    code, _, err = prepare()
    assert code == 1 and err.startswith(f"error: {file}: unknown part 'tail' of a person; known ")
    file.write_bytes(b"no matlab file" * 20)
    code, _, err = prepare()
    assert code == 1 and err.startswith(f"error: {file} is not a part annotation (")
    assert err.count("\n") == 1
    write_annotation(file, [person(head=mask(1))])
    image = release / "VOC2010/JPEGImages/2008_000003.jpg"
    Image.new("RGB", (6, 9)).save(image)
    code, _, err = prepare()
    assert code == 1 and err.count("\n") == 1
    assert err.startswith(f"error: size differs: image {image} is 6x9, label {file} is 6x8")
    image.unlink()
    assert prepare()[::2] == (1, f"error: image file not found: {image}\n")
