"""Register datasets with a tree, and list what their sources name."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from hiera_seg.data import LabelReader, register_hierarchical_dataset
from hiera_seg.data.catalog import require_registered
from hiera_seg.data.flips import resolve_flip_pairs
from hiera_seg.errors import DatasetError, HierarchyError
from hiera_seg.hierarchy import Hierarchy, tree_colors


def error_of(name):
    with pytest.raises(DatasetError) as error:
        DatasetCatalog.get(name)
    return str(error.value)


# -- metadata --------------------------------------------------------------------------------


def test_metadata_is_plain_and_complete(tree):
    register_hierarchical_dataset(
        "toy_train",
        lambda: [],
        hierarchy=tree,
        label_map={7: "road", "dirt": None},
        raw_classes=["dirt"],
        thing_classes=["own"],
    )
    meta = MetadataCatalog.get("toy_train")
    assert meta.stuff_classes == ["road", "grass", "left-arm", "right-arm", "head"]
    assert meta.stuff_colors == [list(map(int, c)) for c in tree_colors(tree)[:5]]
    assert meta.ignore_label == 255
    assert meta.evaluator_type == "hiera_sem_seg"
    assert meta.label_map == {7: "road", "dirt": None}
    assert meta.thing_classes == ["own"]
    assert Hierarchy.from_dict(**meta.hierarchy) == tree
    json.dumps(meta.as_dict())  # plain data
    reader = LabelReader.from_metadata(meta)
    assert reader.lookup(np.array([[7, 0, 255]], np.uint8)).tolist() == [[0, 255, 255]]


@pytest.mark.parametrize("form", ["object", "plain", "nested", "list", "file", "builtin"])
def test_every_form_of_a_tree(tree, tmp_path, form):
    tree.to_yaml(tmp_path / "toy.yaml")
    forms = {"object": tree, "plain": tree.to_dict(), "nested": {"ground": ["road", "grass"]}}
    forms |= {"list": ["road", "grass"], "file": tmp_path / "toy.yaml", "builtin": "camvid"}
    register_hierarchical_dataset("toy", list, hierarchy=forms[form])
    first = MetadataCatalog.get("toy").stuff_classes[0]
    assert first == ("Animal" if form == "builtin" else "road")


def test_wide_trees_have_void_65535():
    for nodes, void in ((255, 255), (256, 65535)):
        tree = Hierarchy.from_dict([f"n{i}" for i in range(nodes)])
        register_hierarchical_dataset(f"wide_{nodes}", list, hierarchy=tree)
        assert MetadataCatalog.get(f"wide_{nodes}").ignore_label == void


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"ignore_label": 3}, "ignore_label 3 is the id of node"),
        ({"label_map": {3: "rode"}}, "label_map[3]: unknown name 'rode'"),
        ({"flip_pairs": [("left-arm", "arm")]}, "flip_pairs: ('left-arm', 'arm')"),
        (
            {"flip_pairs": [("left", "right")]},
            "flip_pairs: 'body/left' swaps with 'body/right', but 'body/left/left-arm' with no",
        ),
        ({"stuff_classes": ["road"]}, "metadata 'stuff_classes' is set from the tree"),
        ({"source": None}, "specify image_root (and sem_seg_root)"),
        ({"image_suffix": "_rgb"}, "image_suffix is '_rgb', but"),
        ({"split_file": "a.txt"}, "split_file is 'a.txt', but"),
        ({"void_classes": "sky"}, "void_classes is 'sky'"),
        ({"unscored_classes": ["ground"]}, "unscored_classes: 'ground' is the inner node 'ground'"),
        ({"unscored_classes": ["heads"]}, "unscored_classes: unknown name 'heads'"),
        (
            {"hierarchy": Hierarchy.from_dict(["a", "b"], levels=["all"]),
             "unscored_classes": ["a"]},
            "the level 'all' and the mean over all",
        ),
        (
            {"hierarchy": Hierarchy.from_dict(["a", "class-a"], levels=["class"])},
            "leaf 'class-a' and 'a' at level 'class' would share",
        ),
    ],
)  # fmt: skip
def test_nothing_is_registered_when_something_does_not_fit(tree, arguments, message):
    with pytest.raises(DatasetError) as error:
        register_hierarchical_dataset("toy", **{"source": list, "hierarchy": tree, **arguments})
    assert str(error.value).startswith(f"dataset 'toy': {message}")
    assert "toy" not in DatasetCatalog and "toy" not in MetadataCatalog


def test_a_name_is_registered_once(tree):
    with pytest.raises(HierarchyError):
        register_hierarchical_dataset("toy", list, hierarchy="no_such_tree")
    register_hierarchical_dataset("toy", list, hierarchy=tree)
    with pytest.raises(DatasetError, match="'toy' is already registered"):
        register_hierarchical_dataset("toy", list, hierarchy=tree)
    DatasetCatalog.remove("toy")  # its metadata stays, which must not change
    with pytest.raises(DatasetError, match=r"'stuff_classes'.*MetadataCatalog\.remove"):
        register_hierarchical_dataset("toy", list, hierarchy=["a", "b"])
    assert "toy" not in DatasetCatalog
    register_hierarchical_dataset("toy", list, hierarchy=tree)


def test_unregistered_names_have_near_ones(tree):
    require_registered(["hiera_camvid_val"], "DATASETS.TRAIN")
    with pytest.raises(
        ValueError, match="DATASETS.TRAIN names the dataset 'hiera_camvid_vla'.*val"
    ):
        require_registered(["hiera_camvid_vla"], "DATASETS.TRAIN")


def test_flip_pairs_are_pairs_of_two_nodes(tree):
    body = tree.id("body")
    assert resolve_flip_pairs([("left-arm", "right-arm"), (body, 4)], tree) == [(2, 3), (body, 4)]
    for pairs, message in (
        ([("left-arm", "left-arm")], "'body/left/left-arm' is in more than one pair"),
        ([("left-arm", "right-arm"), ("head", "left-arm")], "in more than one pair"),
        ([("left-arm",)], r"flip_pairs: \('left-arm',\)"),
        ([(2, 99)], r"flip_pairs: \(2, 99\)"),
        ([5], "flip_pairs: 5"),
    ):
        with pytest.raises(DatasetError, match=message):
            resolve_flip_pairs(pairs, tree)


# -- sources ---------------------------------------------------------------------------------


def test_a_missing_or_empty_folder_is_named_when_used(tree, tmp_path):
    register_hierarchical_dataset(
        "gone", image_root=tmp_path / "images", sem_seg_root=tmp_path / "labels", hierarchy=tree
    )
    assert error_of("gone") == f"dataset 'gone': image folder not found: {tmp_path}/images"
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").touch()
    assert error_of("gone") == f"dataset 'gone': label folder not found: {tmp_path}/labels"
    (tmp_path / "labels").mkdir()
    assert error_of("gone").startswith("dataset 'gone': no label files (")
    assert error_of("gone").endswith(f" below {tmp_path}/labels")


def test_the_datasets_folder_is_that_of_the_moment_of_use(tree, tmp_path, monkeypatch):
    register_hierarchical_dataset(
        "mine", image_root="$DETECTRON2_DATASETS/mine/images", hierarchy=tree
    )
    (tmp_path / "mine/images").mkdir(parents=True)
    (tmp_path / "mine/images/a.jpg").touch()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    records = DatasetCatalog.get("mine")
    assert records == [{"file_name": f"{tmp_path}/mine/images/a.jpg", "dataset_name": "mine"}]

    monkeypatch.setenv("DETECTRON2_DATASETS", f"{tmp_path}/elsewhere")
    assert error_of("mine") == (
        f"dataset 'mine': image folder not found: {tmp_path}/elsewhere/mine/images "
        f"(DETECTRON2_DATASETS is '{tmp_path}/elsewhere'; set it to the folder that holds the "
        "datasets)"
    )
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert "not found: datasets/mine/images (DETECTRON2_DATASETS is not set" in error_of("mine")


def test_a_callable_lists_dicts_which_get_the_name(tree):
    original = {"file_name": Path("a.jpg"), "dataset_name": "another", "sem_seg_file_name": None}
    register_hierarchical_dataset("toy", lambda: iter([original]), hierarchy=tree)
    assert DatasetCatalog.get("toy") == [{"file_name": "a.jpg", "dataset_name": "toy"}]
    assert original["dataset_name"] == "another"


@pytest.mark.parametrize(
    "records, message",
    [
        ([], "lists no images"),
        ([{"file_name": "a"}, {"image": "b.jpg"}], "entry 1: not a dict with a 'file_name'"),
        (["a.jpg"], "entry 0: not a dict with a 'file_name'"),
        ([{"file_name": 3}], "entry 0: 'file_name' is 3; specify a path"),
        (
            [{"file_name": "https://x.invalid/a.jpg"}],
            "entry 0: 'file_name' is https://x.invalid/a.jpg: images and labels are not downloaded",
        ),
    ],
)
def test_what_a_callable_lists_is_checked(tree, records, message):
    register_hierarchical_dataset("toy", lambda: records, hierarchy=tree)
    assert error_of("toy").startswith(f"dataset 'toy': {message}")


def test_a_list_of_dicts_is_a_source(tree, tmp_path):
    source = [{"file_name": Path("a.jpg"), "sem_seg_file_name": "/x/a.png"}, {"file_name": "b.jpg"}]
    kept = [dict(record) for record in source]
    register_hierarchical_dataset("listed", source, hierarchy=tree)
    register_hierarchical_dataset("below", tuple(source), hierarchy=tree, image_root=tmp_path)
    source.clear()
    assert DatasetCatalog.get("listed") == [
        {"file_name": "a.jpg", "sem_seg_file_name": "/x/a.png", "dataset_name": "listed"},
        {"file_name": "b.jpg", "dataset_name": "listed"},
    ]
    below = DatasetCatalog.get("below")
    assert [record["file_name"] for record in below] == [f"{tmp_path}/a.jpg", f"{tmp_path}/b.jpg"]
    assert [record["file_name"] for record in kept] == [Path("a.jpg"), "b.jpg"]


def test_a_json_file_has_paths_relative_to_the_roots(tree, tmp_path):
    """Absolute paths and parent folders are allowed."""
    entry = {"file_name": "../a.jpg", "sem_seg_file_name": "/abs/a.png", "height": 3}
    (tmp_path / "list.json").write_text(json.dumps([entry]))
    register_hierarchical_dataset("here", tmp_path / "list.json", hierarchy=tree)
    register_hierarchical_dataset(
        "root", str(tmp_path / "list.json"), hierarchy=tree, image_root="/data/images"
    )
    assert DatasetCatalog.get("here")[0] == {
        **entry, "file_name": f"{tmp_path}/../a.jpg", "dataset_name": "here",
    }  # fmt: skip
    assert DatasetCatalog.get("root")[0]["file_name"] == "/data/images/../a.jpg"


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "json file not found: {path}"),
        ('[{"file_name": "a"},\n {"x": }]', "{path}, line 2: not valid json"),
        ('{"file_name": "a"}', "{path} holds a dict; "),
        ('[{"file_name": "a"}, {"image": "b"}]', "{path}, entry 1: not a dict with a 'file_name'"),
        ('[{"file_name": "a"}] 1', "{path}, line 1: not valid json: Extra data"),
        ("[]", "{path} holds an empty list"),
        (
            '[{"file_name": "a", "sem_seg_file_name": 3}]',
            "{path}, entry 0: 'sem_seg_file_name' is 3",
        ),
        ("[" * 100_000, "{path}: its brackets are nested too deeply"),
        ('[{"x": ' + "[" * 5000 + "]" * 5000 + "}]", "{path}: its brackets are nested too deeply"),
        (
            '[{"file_name": "a"}, {"file_name": "http://x.invalid/a.jpg"}]',
            "{path}, entry 1: 'file_name' is http://x.invalid/a.jpg",
        ),
        (
            '[{"file_name": "a", "sem_seg_file_name": "detectron2://a.png"}]',
            "{path}, entry 0: 'sem_seg_file_name' is detectron2://a.png",
        ),
    ],
)
def test_bad_json_files(tree, tmp_path, content, message):
    path = tmp_path / "list.json"
    if content is not None:
        path.write_text(content)
    register_hierarchical_dataset("toy", path, hierarchy=tree)
    assert error_of("toy").startswith(f"dataset 'toy': {message.format(path=path)}")


def test_registering_reads_no_file_and_survives_pickling(register):
    images, _ = register("toy", {"a": np.zeros((4, 4), np.uint8)})
    (images / "a.png").write_bytes(b"broken")  # listing does not look into files
    assert len(pickle.loads(pickle.dumps(DatasetCatalog["toy"]))()) == 1
