import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_seg.data import LabelReader, pair_files, register_hierarchical_dataset
from hiera_seg.data.catalog import require_registered
from hiera_seg.data.flips import resolve_flip_pairs
from hiera_seg.data.listing import UnpairedFilesError
from hiera_seg.errors import DatasetError, HierarchyError
from hiera_seg.hierarchy import Hierarchy, tree_colors


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def names_of(records, root):
    keys = ("file_name", "sem_seg_file_name")
    return [tuple(os.path.relpath(r[k], root) for k in keys if k in r) for r in records]


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
    forms = {
        "object": tree,
        "plain": tree.to_dict(),
        "nested": {"ground": ["road", "grass"]},
        "list": ["road", "grass"],
        "file": tmp_path / "toy.yaml",
        "builtin": "camvid",
    }
    register_hierarchical_dataset("toy", list, hierarchy=forms[form])
    first = MetadataCatalog.get("toy").stuff_classes[0]
    assert first == ("Animal" if form == "builtin" else "road")


def test_wide_trees_have_void_65535():
    for nodes, void in ((255, 255), (256, 65535)):
        tree = Hierarchy.from_dict([f"n{i}" for i in range(nodes)])
        register_hierarchical_dataset(f"wide_{nodes}", list, hierarchy=tree)
        assert MetadataCatalog.get(f"wide_{nodes}").ignore_label == void


def test_nothing_is_registered_when_something_does_not_fit(tree):
    bad = {
        "ignore_label 3 is the id of node": {"ignore_label": 3},
        "label_map[3]: unknown name 'rode'": {"label_map": {3: "rode"}},
        "flip_pairs: ('left-arm', 'arm')": {"flip_pairs": [("left-arm", "arm")]},
        "metadata 'stuff_classes' is set from the tree": {"stuff_classes": ["road"]},
        "image_root (and sem_seg_root), or a source": {"source": None},
        "source is of type int": {"source": 5},
        "void_classes is 'sky'": {"void_classes": "sky"},
        "the level 'all' and the mean over all": {
            "hierarchy": Hierarchy.from_dict(["a", "b"], levels=["all"]),
            "unscored_classes": ["a"],
        },
        "leaf 'class-a' and 'a' at level 'class' would share": {
            "hierarchy": Hierarchy.from_dict(["a", "class-a"], levels=["class"]),
        },
    }
    for message, arguments in bad.items():
        with pytest.raises(DatasetError) as error:
            register_hierarchical_dataset("toy", **{"source": list, "hierarchy": tree, **arguments})
        assert str(error.value).startswith("dataset 'toy': ") and message in str(error.value)
        assert "toy" not in DatasetCatalog and "toy" not in MetadataCatalog
    with pytest.raises(HierarchyError):
        register_hierarchical_dataset("toy", list, hierarchy="no_such_tree")
    assert "toy" not in DatasetCatalog


def test_registering_twice_says_what_to_do(tree):
    register_hierarchical_dataset("toy", list, hierarchy=tree)
    with pytest.raises(DatasetError, match="'toy' is already registered"):
        register_hierarchical_dataset("toy", list, hierarchy=tree)


def test_what_is_left_of_a_removed_dataset_is_named_and_nothing_changes(tree):
    register_hierarchical_dataset("toy", list, hierarchy=tree)
    DatasetCatalog.remove("toy")
    other = Hierarchy.from_dict(["a", "b"])
    with pytest.raises(DatasetError, match=r"'stuff_classes'.*MetadataCatalog\.remove"):
        register_hierarchical_dataset("toy", list, hierarchy=other)
    assert "toy" not in DatasetCatalog
    register_hierarchical_dataset("toy", list, hierarchy=tree)  # the same one is welcome back


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
        ([("left-arm",)], r"flip_pairs holds \('left-arm',\)"),
        ([(2, 99)], "99 is not a node id"),
    ):
        with pytest.raises(DatasetError, match=message):
            resolve_flip_pairs(pairs, tree)


# -- listing ---------------------------------------------------------------------------------


def test_files_pair_by_path_at_any_depth(tmp_path):
    images = ("b.jpg", "a.PNG", "x/a.jpg", "x/y/c.v2.jpeg", ".hidden.jpg", ".tmp/d.jpg")
    labels = ("b.png", "a.png", "x/a.tif", "x/y/c.v2.png", "notes.txt")
    touch(*(tmp_path / "images" / path for path in images))
    touch(*(tmp_path / "labels" / path for path in labels))
    records = pair_files(tmp_path / "images", tmp_path / "labels")
    assert names_of(records, tmp_path) == [
        ("images/a.PNG", "labels/a.png"),
        ("images/b.jpg", "labels/b.png"),
        ("images/x/a.jpg", "labels/x/a.tif"),
        ("images/x/y/c.v2.jpeg", "labels/x/y/c.v2.png"),
    ]


def test_files_of_one_stem_pair_across_folders(tmp_path):
    touch(tmp_path / "images/seq1/a.jpg", tmp_path / "images/seq2/b.jpg")
    touch(tmp_path / "labels/a.png", tmp_path / "labels/deep/er/b.png")
    records = pair_files(tmp_path / "images", tmp_path / "labels")
    assert names_of(records, tmp_path) == [
        ("images/seq1/a.jpg", "labels/a.png"),
        ("images/seq2/b.jpg", "labels/deep/er/b.png"),
    ]


def test_labels_may_lie_among_or_below_the_images(tmp_path):
    touch(tmp_path / "one/a.jpg", tmp_path / "one/a.png")
    records = pair_files(tmp_path / "one", tmp_path / "one")
    assert names_of(records, tmp_path) == [("one/a.jpg", "one/a.png")]
    touch(tmp_path / "two/a.png", tmp_path / "two/labels/a.png")
    records = pair_files(tmp_path / "two", tmp_path / "two/labels")
    assert names_of(records, tmp_path) == [("two/a.png", "two/labels/a.png")]


def test_a_suffix_tells_images_and_labels_of_one_folder_apart(tree, tmp_path):
    touch(
        *(tmp_path / f"one/{name}" for name in ("a.png", "a_mask.png", "s/b.jpg", "s/b_mask.png"))
    )
    pairs = [("one/a.png", "one/a_mask.png"), ("one/s/b.jpg", "one/s/b_mask.png")]
    found = pair_files(tmp_path / "one", tmp_path / "one", label_suffix="_mask")
    assert names_of(found, tmp_path) == pairs
    register_hierarchical_dataset(
        "one", hierarchy=tree, image_root=tmp_path / "one", sem_seg_root=tmp_path / "one",
        label_suffix="_mask",
    )  # fmt: skip
    listing = pickle.loads(pickle.dumps(DatasetCatalog["one"]))
    assert names_of(listing(), tmp_path) == pairs
    # The longer suffix decides, on either side.
    touch(*(tmp_path / f"two/{name}.png" for name in ("c", "c_rgb", "d_x", "d_x_rgb")))
    found = pair_files(tmp_path / "two", tmp_path / "two", image_suffix="_rgb")
    assert names_of(found, tmp_path) == [
        ("two/c_rgb.png", "two/c.png"),
        ("two/d_x_rgb.png", "two/d_x.png"),
    ]


def test_a_split_file_names_stems_or_paths(tree, tmp_path):
    names = ("x/a", "x/b", "y/b", "y/c.v2", "y/d")
    touch(*(tmp_path / f"images/{name}_rgb.jpg" for name in names))
    touch(*(tmp_path / f"labels/{name}.png" for name in (*names[:-1], "alone")))
    split = tmp_path / "train.txt"
    split.write_text("y/b 1\n\n/data/set/y/c.v2_rgb.jpg /data/labels/c.png\na_rgb\n")
    register_hierarchical_dataset(
        "split", hierarchy=tree, image_root=tmp_path / "images", sem_seg_root=tmp_path / "labels",
        image_suffix="_rgb", split_file=split,
    )  # fmt: skip
    listing = pickle.loads(pickle.dumps(DatasetCatalog["split"]))
    assert names_of(listing(), tmp_path) == [
        (f"images/{name}_rgb.jpg", f"labels/{name}.png") for name in ("y/b", "y/c.v2", "x/a")
    ]
    split.write_text("x/a\nd\nnone\n")  # one pair, one image without a label, and no image
    with pytest.raises(UnpairedFilesError) as error:
        DatasetCatalog.get("split")
    assert f"1 line of {split}" in str(error.value) and ": none;" in str(error.value)
    assert f"1 image without a label: {tmp_path}/images/y/d_rgb.jpg" in str(error.value)
    assert "alone" not in str(error.value)
    assert names_of(error.value.records, tmp_path) == [("images/x/a_rgb.jpg", "labels/x/a.png")]
    split.write_text("b\n")
    with pytest.raises(DatasetError, match=r"train\.txt: 'b' fits 2 images, such as x/b and y/b"):
        DatasetCatalog.get("split")


def test_a_pattern_tells_images_and_labels_of_one_folder_apart(tmp_path):
    for name in ("s/rgb/a.png", "s/mask/a.png", "t/rgb/b.png", "t/mask/b.png"):
        touch(tmp_path / name)
    found = pair_files(tmp_path, tmp_path, image_glob="*/rgb/*.png")
    assert names_of(found, tmp_path) == [
        ("s/rgb/a.png", "s/mask/a.png"), ("t/rgb/b.png", "t/mask/b.png")
    ]  # fmt: skip
    with pytest.raises(DatasetError, match=r"no image files \(\*\.jpg "):
        pair_files(tmp_path, tmp_path, image_glob="*.jpg")


@pytest.mark.parametrize(
    "images, labels, question",
    [
        (["a", "b"], ["a_mask", "b_mask"], "did you mean label_suffix='_mask'?"),
        (["a_rgb", "b_rgb"], ["a", "b"], "did you mean image_suffix='_rgb'?"),
        (
            ["a_leftImg8bit", "b_leftImg8bit"],
            ["a_gtFine_color", "b_gtFine_color", "a_gtFine_labelIds", "b_gtFine_labelIds"],
            "did you mean image_suffix='_leftImg8bit' and label_suffix='_gtFine_color' or "
            "label_suffix='_gtFine_labelIds'?",
        ),
        (["a", "b", "c"], ["x", "y", "c"], None),
    ],
)
def test_an_error_of_pairing_asks_for_the_suffix(tmp_path, images, labels, question):
    touch(*(tmp_path / f"images/{name}.jpg" for name in images))
    touch(*(tmp_path / f"labels/{name}.png" for name in labels))
    with pytest.raises(UnpairedFilesError) as error:
        pair_files(tmp_path / "images", tmp_path / "labels")
    message = str(error.value)
    assert message.endswith(question) if question else "did you mean" not in message


def test_one_folder_without_a_suffix_asks_for_it(tmp_path):
    touch(*(tmp_path / f"{name}.png" for name in ("a", "a_mask", "b", "b_mask")))
    with pytest.raises(DatasetError, match="did you mean label_suffix='_mask'?"):
        pair_files(tmp_path, tmp_path)


@pytest.mark.parametrize(
    "suffixes",
    [{"label_suffix": 3}, {"image_suffix": "_rgb"}, {"image_glob": None}, {"split_file": "a.txt"}],
)
def test_suffixes_that_cannot_work_are_named(tree, suffixes):
    key, value = next(iter(suffixes.items()))
    with pytest.raises(DatasetError, match=f"'odd': {key} is {value!r}"):
        register_hierarchical_dataset("odd", lambda: [], hierarchy=tree, **suffixes)


def test_a_folder_is_listed_once_whatever_links_lead_to_it(tmp_path):
    names = ("a", "s/b", "s/t/c")
    touch(*(tmp_path / f"data/images/{name}.jpg" for name in names))
    touch(*(tmp_path / f"data/labels/{name}.png" for name in names))
    touch(tmp_path / "elsewhere/e.jpg", tmp_path / "beside/e.png", tmp_path / "data/other/x.jpg")
    for root, other in (("images", "elsewhere"), ("labels", "beside")):
        folder = tmp_path / "data" / root
        for link, target in (
            (folder / "itself", "."),  # two of them make a walk that follows loops endless
            (folder / "again", "."),
            (folder / "above", ".."),
            (folder / "s/top", ".."),
            (folder / "A", "s/t"),  # before the folder by name
            (folder / "more", tmp_path / other),
        ):
            os.symlink(target, link)
    records = pair_files(tmp_path / "data/images", tmp_path / "data/labels")
    assert names_of(records, tmp_path / "data") == [
        (f"images/{name}.jpg", f"labels/{name}.png") for name in ("a", "more/e", "s/b", "s/t/c")
    ]


def test_images_alone(tmp_path):
    touch(tmp_path / "images/a.jpg")
    assert names_of(pair_files(tmp_path / "images", None), tmp_path) == [("images/a.jpg",)]


def test_unpaired_files_are_named_and_counted(tmp_path):
    touch(*(tmp_path / f"images/{i}.jpg" for i in range(9)), tmp_path / "images/s/x.jpg")
    touch(tmp_path / "labels/0.png", tmp_path / "labels/t/x.png", tmp_path / "labels/u/x.png")
    with pytest.raises(UnpairedFilesError) as error:
        pair_files(tmp_path / "images", tmp_path / "labels")
    first = ", ".join(str(tmp_path / f"images/{i}.jpg") for i in range(1, 6))
    # x is ambiguous: two labels have its stem, and neither its path
    both = f"{tmp_path}/labels/t/x.png, {tmp_path}/labels/u/x.png"
    assert str(error.value).startswith(
        f"9 images without a label: {first}, ...; 2 labels without an image: {both} ("
    )
    assert names_of(error.value.records, tmp_path) == [("images/0.jpg", "labels/0.png")]


def test_two_files_of_one_name_are_refused(tmp_path):
    touch(tmp_path / "images/a.jpg", tmp_path / "images/a.png")
    with pytest.raises(DatasetError, match="two image files .*: .*a.* and .*a"):
        pair_files(tmp_path / "images", None)


def test_a_missing_or_empty_folder_is_named_when_used(tree, tmp_path):
    register_hierarchical_dataset(
        "gone", image_root=tmp_path / "images", sem_seg_root=tmp_path / "labels", hierarchy=tree
    )
    with pytest.raises(DatasetError) as error:
        DatasetCatalog.get("gone")
    assert str(error.value) == f"dataset 'gone': image folder not found: {tmp_path}/images"
    touch(tmp_path / "images/a.jpg")
    with pytest.raises(DatasetError, match="'gone': label folder not found: .*/labels$"):
        DatasetCatalog.get("gone")
    (tmp_path / "labels").mkdir()
    with pytest.raises(DatasetError, match=r"'gone': no label files \(.*png.*\) below .*/labels$"):
        DatasetCatalog.get("gone")


def test_the_datasets_folder_is_that_of_the_moment_of_use(tree, tmp_path, monkeypatch):
    register_hierarchical_dataset(
        "mine", image_root="$DETECTRON2_DATASETS/mine/images", hierarchy=tree
    )
    touch(tmp_path / "mine/images/a.jpg")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    records = DatasetCatalog.get("mine")
    assert records == [{"file_name": f"{tmp_path}/mine/images/a.jpg", "dataset_name": "mine"}]

    monkeypatch.setenv("DETECTRON2_DATASETS", f"{tmp_path}/elsewhere")
    with pytest.raises(DatasetError) as error:
        DatasetCatalog.get("mine")
    assert str(error.value) == (
        f"dataset 'mine': image folder not found: {tmp_path}/elsewhere/mine/images "
        f"(DETECTRON2_DATASETS is '{tmp_path}/elsewhere'; set it to the folder that holds the "
        "datasets)"
    )
    monkeypatch.delenv("DETECTRON2_DATASETS")
    with pytest.raises(DatasetError, match="not found: datasets/mine/images .* is not set, which"):
        DatasetCatalog.get("mine")


def test_a_callable_lists_dicts_which_get_the_name(tree):
    original = {"file_name": "a.jpg", "dataset_name": "another", "image_id": 3}
    register_hierarchical_dataset("toy", lambda: [original], hierarchy=tree)
    assert DatasetCatalog.get("toy") == [
        {"file_name": "a.jpg", "dataset_name": "toy", "image_id": 3}
    ]
    assert original["dataset_name"] == "another"


def test_what_a_callable_lists_is_checked(tree):
    bad = {
        "lists no images": [],
        "entry 1: not a dict with a 'file_name'": [{"file_name": "a.jpg"}, {"image": "b.jpg"}],
        "entry 0: not a dict with a 'file_name'": ["a.jpg"],
    }
    for index, (message, records) in enumerate(bad.items()):
        register_hierarchical_dataset(f"toy{index}", lambda r=records: r, hierarchy=tree)
        with pytest.raises(DatasetError) as error:
            DatasetCatalog.get(f"toy{index}")
        assert str(error.value) == f"dataset 'toy{index}': {message}"


def test_paths_may_be_path_objects_and_labels_none(tree):
    records = [{"file_name": Path("x/a.jpg"), "sem_seg_file_name": None}]
    register_hierarchical_dataset("toy", lambda: iter(records), hierarchy=tree)
    assert DatasetCatalog.get("toy") == [{"file_name": "x/a.jpg", "dataset_name": "toy"}]


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
    register_hierarchical_dataset("bad", [*kept, {"image": "c.jpg"}], hierarchy=tree)
    with pytest.raises(DatasetError, match="'bad': entry 2: not a dict with a 'file_name'"):
        DatasetCatalog.get("bad")


def test_a_json_file_has_paths_relative_to_the_roots(tree, tmp_path):
    entry = {"file_name": "a.jpg", "sem_seg_file_name": "/abs/a.png", "height": 3}
    (tmp_path / "list.json").write_text(json.dumps([entry]))
    register_hierarchical_dataset("here", tmp_path / "list.json", hierarchy=tree)
    register_hierarchical_dataset(
        "root", str(tmp_path / "list.json"), hierarchy=tree, image_root="/data/images"
    )
    assert DatasetCatalog.get("here")[0] == {
        **entry, "file_name": f"{tmp_path}/a.jpg", "dataset_name": "here",
    }  # fmt: skip
    assert DatasetCatalog.get("root")[0]["file_name"] == "/data/images/a.jpg"


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "json file not found: {path}"),
        ('[{"file_name": "a"},\n {"x": }]', "{path}, line 2: not valid json"),
        ('{"file_name": "a"}', "{path} holds a dict; "),
        ('[{"file_name": "a"}, {"image": "b"}]', "{path}, entry 1: not a dict with a 'file_name'"),
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
    with pytest.raises(DatasetError) as error:
        DatasetCatalog.get("toy")
    assert str(error.value).startswith(f"dataset 'toy': {message.format(path=path)}")


def test_a_callable_may_not_name_addresses_either(tree):
    register_hierarchical_dataset(
        "toy", lambda: [{"file_name": "https://x.invalid/a.jpg"}], hierarchy=tree
    )
    with pytest.raises(DatasetError, match=r"'toy': entry 0: 'file_name' is https://x\.invalid/a"):
        DatasetCatalog.get("toy")


def test_absolute_paths_and_parent_folders_are_allowed_in_json_files(tree, tmp_path):
    entry = {"file_name": "../a.jpg", "sem_seg_file_name": "/abs/a.png"}
    (tmp_path / "list.json").write_text(json.dumps([entry]))
    register_hierarchical_dataset("toy", tmp_path / "list.json", hierarchy=tree)
    (record,) = DatasetCatalog.get("toy")
    assert record["file_name"] == f"{tmp_path}/../a.jpg"
    assert record["sem_seg_file_name"] == "/abs/a.png"


def test_registering_reads_no_file_and_survives_pickling(tree, folders):
    image_root, label_root = folders({"a": np.zeros((4, 4), np.uint8)})
    register_hierarchical_dataset(
        "toy", image_root=image_root, sem_seg_root=label_root, hierarchy=tree
    )
    (image_root / "a.png").write_bytes(b"broken")  # listing does not look into files
    listing = pickle.loads(pickle.dumps(DatasetCatalog["toy"]))
    assert len(listing()) == 1
    assert Image.open(label_root / "a.png").size == (4, 4)


@pytest.mark.parametrize(
    "leaf, words",
    [
        ("ground", "unscored_classes: 'ground' is the inner node 'ground'"),
        ("heads", "unscored_classes: unknown name 'heads'"),
    ],
)
def test_unscored_classes_are_leaves(tree, tmp_path, leaf, words):
    with pytest.raises(DatasetError, match=f"dataset 'toy': {words}"):
        register_hierarchical_dataset(
            "toy", hierarchy=tree, image_root=tmp_path, unscored_classes=[leaf]
        )
