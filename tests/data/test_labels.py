import numpy as np
import pytest
from PIL import Image

from hiera_seg.data import DatasetError, LabelReader, read_label_file
from hiera_seg.hierarchy import Hierarchy


@pytest.fixture
def wide_tree() -> Hierarchy:
    return Hierarchy.from_dict({f"g{g}": [f"g{g}n{i}" for i in range(30)] for g in range(20)})


# -- reading files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bits, palette", [(bits, p) for bits in (1, 2, 4, 8) for p in (False, True)] + [(16, False)]
)
def test_values_are_those_in_the_file(tmp_path, png_bytes, bits, palette):
    values = np.random.default_rng(bits).integers(0, 1 << bits, (5, 7))
    values[0, :2] = 0, (1 << bits) - 1
    path = tmp_path / "label.png"
    path.write_bytes(png_bytes(values, bits, palette))
    read = read_label_file(str(path))
    assert read.tolist() == values.tolist()
    assert read.dtype == (np.uint16 if bits == 16 else np.uint8)


def test_tiff_of_16_bits_and_grey_of_32(tmp_path):
    values = np.array([[0, 300], [65535, 7]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.tif")
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "b.tif")
    for name in ("a.tif", "b.tif"):
        assert read_label_file(str(tmp_path / name)).tolist() == values.tolist()


def test_a_label_with_exif_orientation_turns_like_its_image(tmp_path):
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be shown rotated clockwise
    Image.fromarray(values).save(tmp_path / "turned.png", exif=exif)
    read = read_label_file(str(tmp_path / "turned.png"))
    assert read.tolist() == np.rot90(values, -1).tolist()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_coded_labels_are_refused(tmp_path, mode):
    path = str(tmp_path / "color.png")
    Image.new(mode, (4, 3)).save(path)
    with pytest.raises(DatasetError, match="colour-coded .*convert its colours to ids") as error:
        read_label_file(path)
    assert path in str(error.value)


def test_grey_with_alpha_and_jpeg_are_refused(tmp_path):
    Image.new("LA", (4, 3)).save(tmp_path / "alpha.png")
    with pytest.raises(DatasetError, match="alpha.png has mode LA; one channel of integers"):
        read_label_file(str(tmp_path / "alpha.png"))
    Image.new("L", (4, 3)).save(tmp_path / "lossy.jpg")
    with pytest.raises(DatasetError, match="lossy.jpg is a JPEG.*store labels as PNG"):
        read_label_file(str(tmp_path / "lossy.jpg"))


def test_damaged_and_missing_files_are_named(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (90, 90)).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "good.png")
    data = (tmp_path / "good.png").read_bytes()
    damage = {
        "half.png": data[: len(data) // 2],
        "empty.png": b"",
        "text.png": b"no image at all",
        "changed.png": data[:2000] + bytes(64) + data[2064:],
    }
    for name, content in damage.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetError, match=f"cannot read label file .*{name}: ") as error:
            read_label_file(str(tmp_path / name))
        assert "\n" not in str(error.value)
    with pytest.raises(DatasetError, match="label file not found: .*none.png"):
        read_label_file(str(tmp_path / "none.png"))


# -- label maps ------------------------------------------------------------------------------


def test_every_form_of_key_and_value(tree):
    names = ["sky", "tar", "turf", "person", "7", "arm"]
    label_map = {
        0: None,
        "1": "road",  # digits
        "turf": "ground/grass",  # a raw class name; a path
        "person": tree.id("body"),  # an inner node by id
        "7": "head",  # a raw class whose name is digits: the name wins, so this is raw id 4
        np.int64(5): "left-arm",
        9: 255,  # the ignore label is void too
        10: "road",  # many to one
    }
    reader = LabelReader(tree, label_map, raw_classes=names)
    raw = np.array([[0, 1, 2, 3], [4, 5, 9, 10], [255, 1, 1, 0]], np.uint8)
    void = 255
    body = tree.id("body")
    expected = [[void, 0, 1, body], [4, 2, void, 0], [void, 0, 0, void]]
    mapped = reader.lookup(raw)
    assert mapped.tolist() == expected
    assert mapped.dtype == np.int64


def test_raw_classes_may_be_a_mapping(tree):
    reader = LabelReader(tree, {"tar": "road", 3: None}, raw_classes={"tar": 40})
    assert reader.lookup(np.array([[40, 3]], np.uint8)).tolist() == [[0, 255]]


def test_a_table_equals_a_loop(tree):
    rng = np.random.default_rng(3)
    label_map = {
        int(raw): int(rng.integers(tree.num_nodes)) for raw in rng.permutation(60000)[:900]
    }
    label_map[77] = None
    reader = LabelReader(tree, label_map, ignore_label=65535)
    raw = rng.choice([*label_map, 65535], (40, 30)).astype(np.uint16)
    mapped = reader.lookup(raw)
    for at, value in np.ndenumerate(raw):
        node = label_map.get(int(value))
        assert mapped[at] == (65535 if node is None else node)


def test_the_raw_ignore_label_is_void_unless_mapped(tree):
    raw = np.array([[255]], np.uint8)
    assert LabelReader(tree, {}).lookup(raw).tolist() == [[255]]
    assert LabelReader(tree, {255: "head"}).lookup(raw).tolist() == [[4]]


def test_without_a_map_files_hold_node_ids(tree, wide_tree):
    ids = np.arange(tree.num_nodes, dtype=np.uint8)[None]
    assert LabelReader(tree).lookup(ids).tolist() == ids.tolist()
    assert wide_tree.num_nodes == 620
    raw = np.array([[0, 255, 256, 619, 65535]], np.uint16)
    assert LabelReader(wide_tree, ignore_label=65535).lookup(raw).tolist() == raw.tolist()


def test_unmapped_ids_are_listed_with_the_file(tree, tmp_path):
    path = str(tmp_path / "strange.png")
    Image.fromarray(np.array([[0, 41, 40], [1, 41, 255]], np.uint8)).save(path)
    with pytest.raises(DatasetError) as error:
        LabelReader(tree, {0: "road", 1: None}, name="mine")(path)
    assert str(error.value) == (
        f"{path}: raw ids [40, 41] are not in the label map of dataset 'mine'; map each to a node, "
        "or to None for void"
    )
    with pytest.raises(DatasetError) as error:
        LabelReader(tree)(path)
    assert str(error.value) == (
        f"{path}: ids [40, 41] are no node ids of tree 'toy' (0..9, void 255); if the file holds "
        "other ids, register the dataset with a label_map"
    )


def test_ids_beyond_16_bits_are_unmapped(tree):
    with pytest.raises(DatasetError, match=r"ids \[-3, 70000\] are no node ids"):
        LabelReader(tree).lookup(np.array([[0, 70000, -3]], np.int32))


def test_a_long_list_of_ids_is_counted(tree):
    with pytest.raises(DatasetError, match=r"\[10, 11, .* 29, \.\.\. 190 in all\]"):
        LabelReader(tree).lookup(np.arange(200, dtype=np.uint8)[None])


@pytest.mark.parametrize(
    "label_map, raw_classes, message",
    [
        ({3: "rode"}, None, "label_map[3]: unknown name 'rode'"),
        ({3: 99}, None, "label_map[3] is 99; a node of tree 'toy' is wanted: an id 0..9"),
        ({3: 1.5}, None, "label_map[3] is 1.5"),
        ({3: True}, None, "label_map[3] is True"),
        ({"tar": 0}, None, "key 'tar', a name, but no raw_classes were given"),
        ({"tra": 0}, ["tar"], "neither a raw id nor one of raw_classes (nearest: tar)"),
        ({"tar": 0}, ["tar", "tar"], "'tar', which raw_classes names more than once"),
        ({-1: None}, None, "raw id -1 (key -1), which a label file of 8 or 16 bits can not hold"),
        ({"70000": 0}, None, "raw id 70000 (key '70000')"),
        ({None: 0}, None, "key None, which is neither"),
        ({1: "road", "1": "head"}, None, "maps raw id 1 twice (the second time by key '1')"),
    ],
)
def test_maps_that_do_not_fit_are_refused(tree, label_map, raw_classes, message):
    with pytest.raises(DatasetError) as error:
        LabelReader(tree, label_map, raw_classes=raw_classes)
    assert message in str(error.value)


def test_an_ignore_label_inside_the_tree_is_refused(tree, wide_tree):
    with pytest.raises(DatasetError, match="ignore_label 4 is the id of node 'body/top/head'"):
        LabelReader(tree, ignore_label=4)
    with pytest.raises(DatasetError, match="ignore_label 255 is the id of node"):
        LabelReader(wide_tree, ignore_label=255)
    LabelReader(tree, ignore_label=-1)


def test_tables_can_not_be_changed(tree):
    with pytest.raises(ValueError, match="read-only"):
        LabelReader(tree).table[0] = 1


# -- another tree ----------------------------------------------------------------------------


def test_nodes_of_another_tree_are_found_by_path(tree):
    other = Hierarchy.from_dict(
        {"body": {"top": ["head"], "left": ["left-arm"], "right": ["right-arm"]},
         "ground": ["grass", "road", "sand"]}, name="other",
    )  # fmt: skip
    reader = LabelReader(tree, {1: "road", 2: "body", 3: None, 4: "right-arm"}, name="mine")
    there = reader.to_hierarchy(other, 200)
    assert there.ignore_label == 200
    raw = np.array([[1, 2, 3, 4, 255]], np.uint8)
    paths = ["ground/road", "body", None, "body/right/right-arm", None]
    expected = [200 if p is None else other.paths.index(p) for p in paths]
    assert there.lookup(raw).tolist() == [expected]


def test_only_nodes_that_occur_must_be_in_the_other_tree(tree):
    small = Hierarchy.from_dict({"ground": ["road", "gras"]}, name="small")
    reader = LabelReader(tree, {1: "road", 2: None}, name="mine").to_hierarchy(small, 255)
    assert reader.lookup(np.array([[1, 2]], np.uint8)).tolist() == [[0, 255]]
    with pytest.raises(DatasetError) as error:
        LabelReader(tree, {1: "road", 2: "grass"}, name="mine").to_hierarchy(small, 255)
    assert str(error.value) == (
        "dataset 'mine': node 'ground/grass' of tree 'toy' is not in the model's tree 'small' "
        "(nearest: 'ground/gras'); nodes of two trees are the same where their paths are"
    )
