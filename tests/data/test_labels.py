import struct
from functools import partial

import numpy as np
import pytest
from PIL import Image

from hiera_seg.data import LabelReader, read_image_file, read_label_file
from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy import Hierarchy
from tests.data.png_files import png_of


@pytest.fixture
def wide_tree() -> Hierarchy:
    return Hierarchy.from_dict({f"g{g}": [f"g{g}n{i}" for i in range(30)] for g in range(20)})


# -- reading files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bits, palette", [(bits, p) for bits in (1, 2, 4, 8) for p in (False, True)] + [(16, False)]
)
def test_values_are_those_in_the_file(tmp_path, bits, palette):
    values = np.random.default_rng(bits).integers(0, 1 << bits, (5, 7))
    values[0, :2] = 0, (1 << bits) - 1
    path = tmp_path / "label.png"
    path.write_bytes(png_of(values, bits, 3 if palette else 0))
    read = read_label_file(str(path))
    assert read.tolist() == values.tolist()
    assert read.dtype == (np.uint16 if bits == 16 else np.uint8)


def test_tiff_of_16_bits_and_grey_of_32(tmp_path):
    values = np.array([[0, 300], [65535, 7]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.tif")
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "b.tif")
    for name in ("a.tif", "b.tif"):
        assert read_label_file(str(tmp_path / name)).tolist() == values.tolist()


def tiff(values: np.ndarray, bits: int, white_is_0: bool) -> bytes:
    """A grey TIFF of few bits, which Pillow cannot write."""
    height, width = values.shape
    each = 8 // bits
    packed = values.reshape(height, width // each, each).astype(np.uint8)
    packed = (packed << np.arange(8 - bits, -1, -bits)).sum(-1).astype(np.uint8).tobytes()
    # width, height, bits, no compression, what 0 is, where, channels, rows and bytes of the strip
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: int(not white_is_0), 273: 8 + 2 + 112}
    tags |= {277: 1, 278: height, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + packed


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_tiff_of_few_bits(tmp_path, bits):
    values = np.random.default_rng(bits).integers(0, 1 << bits, (5, 8))
    (tmp_path / "a.tif").write_bytes(tiff(values, bits, white_is_0=False))
    assert read_label_file(str(tmp_path / "a.tif")).tolist() == values.tolist()
    (tmp_path / "b.tif").write_bytes(tiff(values, bits, white_is_0=True))
    with pytest.raises(DatasetError, match=r"b\.tif stores white as 0"):
        read_label_file(str(tmp_path / "b.tif"))


def test_numbers_that_pillow_would_scale_are_refused(tmp_path):
    values = np.array([[0, 1, 2], [15, 29, 30]], np.uint8)
    path = tmp_path / "label.pgm"
    plain = " ".join(map(str, values.ravel()))
    for highest, binary in ((255, True), (255, False), (30, True), (254, True), (30, False)):
        data = values.tobytes() if binary else plain.encode()
        path.write_bytes(f"P{5 if binary else 2} 3 2 {highest}\n".encode() + data)
        if highest == 255:
            assert read_label_file(str(path)).tolist() == values.tolist()
            continue
        with pytest.raises(DatasetError, match=rf"label\.pgm has the highest value {highest}\b"):
            read_label_file(str(path))
    path.write_bytes(b"P4 8 1\n\xf0")
    with pytest.raises(DatasetError, match=r"label\.pgm is a bitmap that stores black as 1"):
        read_label_file(str(path))


@pytest.mark.parametrize(
    "mode, name, options, words",
    [
        ("L", "a.tif", {"compression": "jpeg"}, "is a TIFF with jpeg inside, whose compression"),
        ("L", "a.jp2", {}, "is a JPEG2000, whose compression"),
        ("L", "a.webp", {}, "is a WEBP, whose compression"),
        ("L", "a.jpg", {}, "is a JPEG, whose compression"),
        ("LA", "a.png", {}, "has mode LA"),
        ("RGB", "a.png", {}, "is colour-coded .mode RGB"),
        ("RGBA", "a.png", {}, "is colour-coded .mode RGBA"),
    ],
)
def test_files_that_hold_no_ids_are_refused(tmp_path, mode, name, options, words):
    Image.new(mode, (16, 16)).save(tmp_path / name, **options)
    with pytest.raises(DatasetError, match=f"label file {tmp_path}/{name} {words}"):
        read_label_file(str(tmp_path / name))


def test_pages_and_channels_after_the_first_are_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pages = np.arange(120, dtype=np.uint8).reshape(2, 6, 10)
    tifffile.imwrite(tmp_path / "pages.tif", pages, photometric="minisblack")
    tifffile.imwrite(tmp_path / "big.tif", pages, photometric="minisblack", bigtiff=True)
    tifffile.imwrite(
        tmp_path / "two.tif", np.moveaxis(pages, 0, 2), photometric="minisblack",
        planarconfig="contig",
    )  # fmt: skip
    for name in ("pages.tif", "big.tif", "two.tif"):
        with pytest.raises(DatasetError, match=rf"{name} has several pages or channels"):
            read_label_file(str(tmp_path / name))
    # A reduced copy or a mask of the page, and a preview
    for number, (page, kind) in enumerate([(pages[1], 1), (pages[1] > 90, 4), (pages[1, ::2], 0)]):
        path = str(tmp_path / f"{number}.tif")
        with tifffile.TiffWriter(path) as writer:
            writer.write(pages[0])
            writer.write(page, subfiletype=kind)
        assert np.array_equal(read_label_file(path), pages[0])


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


@pytest.mark.parametrize("scheme", ["http", "https", "ftp", "detectron2"])
@pytest.mark.parametrize(
    "read, suffix",
    [
        (read_label_file, "png"), (read_label_file, "npy"), (read_label_file, "mat"),
        (read_image_file, "jpg"), (partial(read_image_file, image_format="BANDS"), "tif"),
    ],
)  # fmt: skip
def test_readers_download_nothing(monkeypatch, tmp_path, scheme, read, suffix):
    address = f"{scheme}://x.invalid/{suffix}.{suffix}"  # iopath remembers what it has fetched
    asked = []
    monkeypatch.setattr("iopath.common.file_io.download", lambda url, *_, **__: asked.append(url))
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    with pytest.raises(DatasetError, match=f"{address}: images and labels are not downloaded"):
        read(address)
    assert asked == []


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


def test_without_a_map_files_hold_node_ids(tree, wide_tree):
    ids = np.arange(tree.num_nodes, dtype=np.uint8)[None]
    assert LabelReader(tree).lookup(ids).tolist() == ids.tolist()
    assert wide_tree.num_nodes == 620
    raw = np.array([[0, 255, 256, 619, 65535]], np.uint16)
    assert LabelReader(wide_tree, ignore_label=65535).lookup(raw).tolist() == raw.tolist()


def test_files_of_8_bits_cannot_hold_the_void_of_a_wide_tree(wide_tree, tmp_path):
    path = str(tmp_path / "narrow.png")
    Image.fromarray(np.array([[0, 7, 255]], np.uint8)).save(path)
    reader = LabelReader(wide_tree, ignore_label=65535, name="mine")
    for each in (reader, reader.to_hierarchy(wide_tree, 65535)):
        with pytest.raises(DatasetError, match="narrow.png: 255 .* 8 bits"):
            each(path)
    assert reader.lookup(np.array([[0, 254]], np.uint8)).tolist() == [[0, 254]]
    mapped = LabelReader(wide_tree, {0: 0, 7: 7, 255: None}, ignore_label=65535)
    assert mapped(path).tolist() == [[0, 7, 65535]]
    assert LabelReader(wide_tree, ignore_label=-1)(path).tolist() == [[0, 7, 255]]


def test_unmapped_ids_are_listed_with_the_file(tree, tmp_path):
    path = str(tmp_path / "strange.png")
    Image.fromarray(np.array([[0, 41, 40], [1, 41, 255]], np.uint8)).save(path)
    with pytest.raises(DatasetError) as error:
        LabelReader(tree, {0: "road", 1: None}, name="mine")(path)
    for word in (path, "40, 41", "label map", "'mine'"):
        assert word in str(error.value)
    with pytest.raises(DatasetError) as error:
        LabelReader(tree)(path)
    for word in (path, "40, 41", "tree 'toy'", "(0..9, void 255)", "label_map"):
        assert word in str(error.value)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint32, np.uint64])
def test_no_integer_wraps_round(tree, dtype):
    reader = LabelReader(tree, {0: "road", 1: "grass"}, ignore_label=65535)
    assert reader.lookup(np.array([[0, 1]], dtype)).tolist() == [[0, 1]]
    wrong = [-1, -65536] if np.issubdtype(dtype, np.signedinteger) else [65536, 70000]
    wrong = [value for value in wrong if np.iinfo(dtype).min <= value]
    for value in wrong:
        with pytest.raises(DatasetError, match=rf"raw ids {value} are not in the label map"):
            reader.lookup(np.array([[0, value]], dtype))


def test_a_negative_void_is_no_raw_id(tree):
    reader = LabelReader(tree, ignore_label=-1)
    with pytest.raises(DatasetError, match=r"ids -1 .* \(0\.\.\d+\);"):
        reader.lookup(np.array([[0, -1]], np.int32))


def test_a_long_list_of_ids_is_counted(tree):
    with pytest.raises(DatasetError, match="ids 10, 11, .* 29 and 170 more"):
        LabelReader(tree).lookup(np.arange(200, dtype=np.uint8)[None])


@pytest.mark.parametrize(
    "label_map, raw_classes, message",
    [
        ({3: "rode"}, None, "label_map[3]: unknown name 'rode'"),
        ({3: 99}, None, "label_map[3] is 99"),
        ({3: 1.5}, None, "label_map[3] is 1.5"),
        ({3: True}, None, "label_map[3] is True"),
        ({"tar": 0}, None, "key 'tar', which is neither a raw id nor"),
        ({"tra": 0}, ["tar"], "in raw_classes; nearest: 'tar'"),
        (
            {"tar": 0},
            ["tar", "tar"],
            "key 'tar', which is neither a raw id nor the name of exactly",
        ),
        ({-1: None}, None, "raw id -1 (key -1)"),
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


def test_tables_cannot_be_changed(tree):
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
    for word in ("'mine'", "'ground/grass'", "tree 'toy'", "tree 'small'", "'ground/gras'"):
        assert word in str(error.value)


def test_a_translated_reader_names_the_ids_of_its_own_files(tree):
    larger = Hierarchy.from_dict({**tree.to_dict()["tree"], "more": ["x"]}, name="larger")
    reader = LabelReader(tree, name="mine", exif="ignore").to_hierarchy(larger, 200)
    assert (reader.name, reader.exif, reader.default_void) == ("mine", "ignore", 255)
    assert reader.lookup(np.array([[0, 255]], np.uint8)).tolist() == [[larger["road"], 200]]
    assert reader.unmapped(np.array([[0, 10, 255]])) == [10]
    with pytest.raises(DatasetError, match=r"a\.png: ids 10 .* tree 'toy' .* \(0\.\.9"):
        reader.lookup(np.array([[0, 10]], np.uint8), "a.png")
    with pytest.raises(DatasetError, match="ignore_label 3"):
        reader.to_hierarchy(larger, 3)
    again = reader.to_hierarchy(tree, 255)
    assert again.lookup(np.array([[0, 4, 255]], np.uint8)).tolist() == [[0, 4, 255]]
