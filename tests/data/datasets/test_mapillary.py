import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg.data import LabelReader
from hiera_seg.data.datasets import mapillary
from hiera_seg.evaluation import HieraSemSegEvaluator
from hiera_seg.hierarchy import Hierarchy
from tests.helpers import plain_mapper


def config(file) -> list[dict]:
    return json.loads(file.read_text())["labels"]


def test_the_tree_of_2_0_is_what_the_names_say(sample):
    labels = config(sample("mapillary_vistas_config_v2.0.json"))
    names = [label["name"] for label in labels]
    kept = [name for name in names if not name.startswith("void--")]
    assert (len(names), len(kept)) == (124, 118)
    assert names[118:] == list(mapillary.VOID_V2)
    tree = Hierarchy.load("mapillary_vistas_v2")
    assert tree == Hierarchy.from_paths(
        kept, sep="--", levels=["area", "group", "kind", "class"], name=tree.name
    )
    assert (tree.num_leaves, tree.num_nodes, tree.num_levels) == (118, 142, 4)
    # Seven more classes are not evaluated, and that is known of each.
    unscored = [label["name"] for label in labels[:118] if not label["evaluate"]]
    assert unscored == list(mapillary.UNSCORED_V2)
    meta = MetadataCatalog.get("hiera_mapillary_vistas_v2_val")
    assert len(set(meta.unscored_classes)) == 7
    assert [tree.paths[tree.id(leaf)].replace("/", "--") for leaf in meta.unscored_classes] == (
        unscored
    )


def test_the_three_level_tree_groups_the_same_classes():
    nested, grouped = (Hierarchy.load(f"mapillary_vistas_v2{s}") for s in ("", "_3level"))
    assert [path.replace("/", "--") for path in nested.paths[:118]] == list(grouped.leaf_names)
    assert [len(grouped.level_nodes(level)) for level in range(3)] == [4, 16, 118]
    expected = {
        "animal--bird": "living/animal",
        "human--rider--other-rider": "living/rider",
        "marking--discrete--arrow--left": "construction/marking",
        "marking-only--continuous--dashed": "construction/marking",
        "construction--flat--road": "construction/flat",
        "nature--sky": "nature/sky",
        "nature--water": "nature/land-and-water",
        "object--bench": "object/furniture",
        "object--traffic-sign--front": "object/traffic-sign",
        "object--vehicle--car": "object/vehicle",
    }
    for leaf, group in expected.items():
        assert grouped.paths[grouped.id(leaf)] == f"{group}/{leaf}"


def test_the_tree_of_1_2_is_what_the_names_say(sample):
    labels = config(sample("mapillary_vistas_v1.2/config.json"))
    names = [label["name"] for label in labels]
    assert len(names) == 66 and names[65:] == list(mapillary.VOID_V1)
    assert [label["evaluate"] for label in labels] == [True] * 65 + [False]
    tree = Hierarchy.load("mapillary_vistas_v1")
    levels = ["area", "group", "class"]
    assert tree == Hierarchy.from_paths(names[:65], sep="--", levels=levels, name=tree.name)


@pytest.mark.parametrize("suffix", ["", "_3level"])
def test_ids_are_the_places_in_the_config(suffix):
    reader = LabelReader.from_metadata(
        MetadataCatalog.get(f"hiera_mapillary_vistas_v2{suffix}_train")
    )
    nodes = reader.lookup(np.arange(124, dtype=np.uint8)[None])[0].tolist()
    assert nodes == [*range(118)] + [255] * 6


@pytest.mark.parametrize("suffix", ["", "_3level"])
def test_arrows_point_the_other_way_in_a_mirrored_image(suffix):
    meta = MetadataCatalog.get(f"hiera_mapillary_vistas_v2{suffix}_train")
    tree = Hierarchy.from_dict(**meta.hierarchy)
    # left and right, split-left-or-straight and split-right-or-straight in the config
    pairs = [tuple(int(tree.id(node)) for node in pair) for pair in meta.flip_pairs]
    assert pairs == [(39, 41), (42, 43)]


def test_one_image_with_labels_of_both_versions(sample, linked):
    folder = sample("mapillary_vistas_100x100")
    linked(
        {
            "mapillary_vistas/training/images": folder / "images",
            "mapillary_vistas/training/v1.2/labels": folder / "v1.2",
            "mapillary_vistas/training/v2.0/labels": folder / "v2.0",
        }
    )
    said = {}
    for version in ("v1", "v2", "v2_3level"):
        name = f"hiera_mapillary_vistas_{version}_train"
        reader = LabelReader.from_metadata(MetadataCatalog.get(name))
        (record,) = DatasetCatalog.get(name)
        labels = reader(record["sem_seg_file_name"])
        raw = np.asarray(Image.open(record["sem_seg_file_name"]))
        assert np.array_equal(labels, raw)
        names = reader.hierarchy.node_names
        said[version] = np.array(names)[labels]
    nested = said["v2"]
    building_and_lamps = {"building", "pole", "street-light"}
    assert set(said["v1"].ravel()) == building_and_lamps == set(nested.ravel())
    assert (nested == said["v1"]).mean() > 0.99  # the two versions agree on what is there
    assert all(
        a.endswith(f"--{b}") for a, b in zip(said["v2_3level"].flat, nested.flat, strict=True)
    )


def test_full_size_photos_read_by_index(sample, linked):
    folder = sample("mapillary_vistas_v1.2")
    # The older release has its labels in labels/, without a folder of the version.
    linked({"mapillary_vistas/validation": folder})
    records = DatasetCatalog.get("hiera_mapillary_vistas_v1_val")
    assert len(records) == 2
    tree = Hierarchy.load("mapillary_vistas_v1")
    mapper = plain_mapper(tree)
    found = mapper(records[0])
    raw = np.asarray(Image.open(records[0]["sem_seg_file_name"]))
    assert raw.shape == (1836, 3264) and (raw == 65).any()
    assert np.array_equal(found["sem_seg"], np.where(raw == 65, 255, raw))


def test_means_are_over_111_classes_and_over_124(tmp_path, monkeypatch):
    """All classes in one image: those in the means are half right, the others all wrong."""
    folder = tmp_path / "mapillary_vistas/validation"
    for part in ("images", "v2.0/labels"):
        (folder / part).mkdir(parents=True)
    truth = np.arange(124, dtype=np.uint8).repeat(2).reshape(2, 124)
    Image.fromarray(truth).save(folder / "v2.0/labels/a.png")
    Image.new("RGB", (124, 2)).save(folder / "images/a.jpg")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    name = "hiera_mapillary_vistas_v2_val"
    (record,) = DatasetCatalog.get(name)
    tree = Hierarchy.load("mapillary_vistas_v2")
    unscored = [tree.id(leaf) for leaf in MetadataCatalog.get(name).unscored_classes]

    labels = np.where(truth < 118, truth, 0).astype(np.int64)
    labels[np.isin(labels, unscored)] = tree.id("object/vehicle/vehicle-group")
    evaluator = HieraSemSegEvaluator(name, distributed=False)
    evaluator.process([record], [{"hiera_labels": [labels] * 4}])
    found = evaluator.evaluate()["sem_seg"]
    # All 111 are right. Of the seven, vehicle-group has IoU 2 / 14 and the others 0; void is 0.
    assert found["mIoU"] == found["mIoU_class"] == pytest.approx(100)
    assert found["mIoU_all"] == pytest.approx(100 * (111 + 1 / 7) / 124)
