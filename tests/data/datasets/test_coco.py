import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg.data import LabelReader
from hiera_seg.hierarchy import Hierarchy


@pytest.fixture
def categories(sample):
    return json.loads(sample("coco_panoptic/panoptic_coco_categories.json").read_text())


def test_the_panoptic_tree_is_the_category_file(categories):
    paths = [
        f"{'thing' if c['isthing'] else 'stuff'}/{c['supercategory']}/{c['name']}"
        for c in categories
    ]
    levels = ["kind", "supercategory", "class"]
    tree = Hierarchy.load("coco_panoptic")
    assert tree == Hierarchy.from_paths(paths, levels=levels, name="coco_panoptic")
    assert (tree.num_leaves, tree.num_nodes) == (133, 162)


def test_the_stuff_tree_agrees_with_the_panoptic_one(categories):
    """Classes that both have lie in one place; a merged one in the place of what it merges."""
    tree = Hierarchy.load("coco_stuff")
    assert (tree.num_leaves, tree.num_nodes) == (171, 200)
    panoptic = Hierarchy.load("coco_panoptic")
    assert tree.paths[:80] == panoptic.paths[:80]
    assert set(tree.paths[171:]) == set(panoptic.paths[133:])
    assert tree.level_names == panoptic.level_names
    both = set(tree.leaf_names) & set(panoptic.leaf_names)
    assert len(both) == 80 + 36
    for name in both:
        assert tree.paths[tree.id(name)] == panoptic.paths[panoptic.id(name)]
    for leaf in panoptic.leaf_names:
        if leaf.endswith("-merged"):
            parent = panoptic.paths[panoptic.id(leaf)].rsplit("/", 1)[0]
            assert parent in tree.paths


def test_stored_values_of_coco_stuff_are_ids_less_one(categories):
    reader = LabelReader.from_metadata(MetadataCatalog.get("hiera_coco_stuff_val"))
    names = reader.hierarchy.leaf_names
    # Things and unmerged stuff have the same ids in both.
    for category in categories:
        if category["name"] in names:
            stored = np.array([[category["id"] - 1]], np.uint8)
            assert names[reader.lookup(stored)[0, 0]] == category["name"]
    # From the list of COCO-Stuff: the last one, and some that panoptic has merged away.
    for id_, name in ((182, "wood"), (94, "branch"), (124, "grass"), (157, "sky-other")):
        assert names[reader.lookup(np.array([[id_ - 1]], np.uint8))[0, 0]] == name
    assert reader.lookup(np.array([[255]], np.uint8))[0, 0] == 255
    assert len(reader.unmapped(np.arange(182, dtype=np.uint8))) == 11


# -- the prepare script -------------------------------------------------------------------------


@pytest.fixture
def prepare(tmp_path, start_tool):
    run = start_tool("../datasets/prepare_coco_panoptic")
    return partial(run, "--coco", tmp_path / "coco", "--splits", "val")


CATEGORIES = [
    {"id": 3, "name": "car", "supercategory": "vehicle", "isthing": 1},
    {"id": 187, "name": "sky-other-merged", "supercategory": "sky", "isthing": 0},
]


@pytest.fixture
def release(tmp_path):
    """One image: a void row, two cars whose ids need two and three bytes, and sky."""
    coco = tmp_path / "coco"
    for folder in ("annotations", "panoptic_val2017", "val2017"):
        (coco / folder).mkdir(parents=True)
    ids = np.array([0, 258, 0x030201, 7])[:, None].repeat(5, 1)
    rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
    Image.fromarray(rgb).save(coco / "panoptic_val2017/000000000001.png")
    Image.new("RGB", (5, 4)).save(coco / "val2017/000000000001.jpg")
    segments = [
        {"id": 258, "category_id": 3},
        {"id": 0x030201, "category_id": 3},
        {"id": 7, "category_id": 187},
    ]
    content = {
        "annotations": [{"file_name": "000000000001.png", "segments_info": segments}],
        "categories": CATEGORIES,
    }
    write(coco, content)
    return coco, content


def write(coco: Path, content) -> None:
    (coco / "annotations/panoptic_val2017.json").write_text(json.dumps(content))


def test_segments_become_classes(release, prepare, monkeypatch, tmp_path):
    coco, _ = release
    code, out, err = prepare()
    assert (code, err) == (0, "")
    assert out == f"wrote 1 label files of val to {coco}/panoptic_semseg_val2017\n"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (record,) = DatasetCatalog.get("hiera_coco_panoptic_val")
    reader = LabelReader.from_metadata(MetadataCatalog.get("hiera_coco_panoptic_val"))
    labels = reader(record["sem_seg_file_name"])
    tree = reader.hierarchy
    expected = [255, tree.id("car"), tree.id("car"), tree.id("sky-other-merged")]
    assert np.array_equal(labels, np.array(expected)[:, None].repeat(5, 1))


def test_real_samples(sample, categories, prepare, monkeypatch, tmp_path):
    """The sample has no segments: stuff has its category's colour there, things one near it."""
    folder = sample("coco_panoptic")
    coco = tmp_path / "coco"
    (coco / "annotations").mkdir(parents=True)
    (coco / "val2017").symlink_to(folder / "input_images")
    (coco / "panoptic_val2017").symlink_to(folder / "panoptic_examples")
    things = [c for c in categories if c["name"] in ("person", "truck", "horse", "sports ball")]
    stuff = {tuple(c["color"]): c for c in categories if not c["isthing"]}
    annotations = []
    for file in sorted((folder / "panoptic_examples").glob("*.png")):
        colors = np.unique(np.asarray(Image.open(file)).reshape(-1, 3), axis=0).tolist()
        segments = []
        for red, green, blue in filter(any, colors):
            color = (red, green, blue)
            near = min(things, key=lambda c: np.abs(np.subtract(c["color"], color)).max())
            category = stuff.get(color, near)
            id_ = red + 256 * green + 65536 * blue
            segments.append({"id": id_, "category_id": category["id"]})
        annotations.append({"file_name": file.name, "segments_info": segments})
    write(coco, {"annotations": annotations, "categories": categories})
    assert prepare()[0] == 0

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    reader = LabelReader.from_metadata(MetadataCatalog.get("hiera_coco_panoptic_val"))
    records = DatasetCatalog.get("hiera_coco_panoptic_val")
    assert len(records) == 2
    for record in records:
        labels = reader(record["sem_seg_file_name"])
        with Image.open(record["file_name"]) as image:
            assert labels.shape == (image.height, image.width)
        raw = np.asarray(
            Image.open(folder / "panoptic_examples" / Path(record["sem_seg_file_name"]).name)
        )
        for name in ("sky-other-merged", "tree-merged", "grass-merged"):
            color = next(c["color"] for c in categories if c["name"] == name)
            assert np.array_equal(labels == reader.hierarchy.id(name), (raw == color).all(-1))
        assert np.array_equal(labels == 255, (raw == 0).all(-1))


def test_bad_annotations_are_one_line(release, prepare):
    coco, content = release
    file = coco / "annotations/panoptic_val2017.json"
    image = coco / "panoptic_val2017/000000000001.png"
    (item,) = content["annotations"]

    write(coco, {**content, "annotations": [{**item, "segments_info": item["segments_info"][:2]}]})
    assert prepare()[::2] == (1, f"error: {image}: segments [7] are not in its json file\n")
    write(coco, {**content, "categories": CATEGORIES[:1]})
    code, _, err = prepare()
    assert code == 1 and err.startswith(f"error: {image}: segment 7 has the category 187, ")
    write(coco, {**content, "categories": [{**CATEGORIES[0], "name": "cart"}]})
    assert prepare()[::2] == (
        1, f"error: {file}: category 'thing/vehicle/cart' is not in the tree 'coco_panoptic'\n",
    )  # fmt: skip
    write(coco, {"images": []})
    code, _, err = prepare()
    assert code == 1 and err.startswith(f"error: {file} has no 'annotations'; ")
    write(coco, {**content, "annotations": [{"file_name": "000000000001.png"}]})
    assert prepare()[::2] == (1, f"error: {file}: an entry lacks the key 'segments_info'\n")
    file.write_text("{")
    code, _, err = prepare()
    assert code == 1 and err.startswith(f"error: {file}, line 1: not valid json: ")
    write(coco, content)
    image.unlink()
    assert prepare()[::2] == (1, f"error: image file not found: {image}\n")
    image.parent.rmdir()
    assert prepare()[::2] == (1, f"error: folder not found: {image.parent}\n")
    file.unlink()
    assert prepare()[::2] == (1, f"error: json file not found: {file}\n")
