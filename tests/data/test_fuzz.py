"""Label maps and label PNGs of any content: a DatasetError that names them, or the right ids."""

import io
import math
import struct
import zlib
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hiera_seg.data import LabelReader, read_label_file
from hiera_seg.errors import DatasetError
from hiera_seg.hierarchy import Hierarchy
from tests.data.png_files import HEADER, chunk

MANY = settings(max_examples=2500)
TREES = [
    Hierarchy.from_dict({"flat": ["road", "7"], "vehicle": {"car": None, "truck": ["big"]}}),
    Hierarchy.from_dict(["sky", "road"]),
    Hierarchy.from_dict({"left": ["hand", "foot"], "right": ["hand", "foot"]}, name="body"),
]

# -- label maps ------------------------------------------------------------------------------------

NAMES = ["road", "car", "hand", "foot", "7", "flat", "sky", "flat/road", "right/hand", "/sky", ""]
odd = st.sampled_from(
    [None, True, False, 1.0, math.nan, "x", "-1", " 3 ", "²", b"1", (1,), np.float32(2), "car\n"]
)
raw_ids = st.integers(0, 9) | st.sampled_from([255, 65535, 65536, -1, 2**70, np.uint8(3)])
keys = raw_ids | st.sampled_from(NAMES) | st.integers(0, 9).map(str) | odd
nodes = st.integers(-1, 9) | st.sampled_from([*NAMES, None, 255, np.int64(1)]) | odd
values = nodes | st.just([1]) | st.just({})
label_maps = (
    st.dictionaries(raw_ids, nodes, max_size=6)
    | st.dictionaries(keys, values, max_size=6)
    | st.none()
    | st.sampled_from([[], "road", 3, [(0, 1)]])
)
raw_classes = (
    st.none()
    | st.lists(st.sampled_from(NAMES), max_size=6)
    | st.dictionaries(st.sampled_from(NAMES), st.integers(0, 9), max_size=4)
    | st.sampled_from([7, "road", [None], [["road"]], {"road": "x"}, {"road": None}, {3: 1}])
)


def node_of(tree: Hierarchy, value: object, void: int) -> int | None:
    """The id that a value of a label map means; None where it means none."""
    if value is None:
        return void
    if isinstance(value, str):
        full = [v for v in range(tree.num_nodes) if f"/{tree.paths[v]}" == f"/{value.lstrip('/')}"]
        if "/" in value:
            return full[0] if full and not value.startswith("//") else None
        same = [v for v in range(tree.num_nodes) if tree.node_names[v] == value]
        leaves = [v for v in same if v < tree.num_leaves]
        inner = [v for v in same if v >= tree.num_leaves]
        return leaves[0] if len(leaves) == 1 else inner[0] if len(inner) == 1 else None
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return None
    return int(value) if 0 <= value < tree.num_nodes or value == void else None


def raw_id_of(key: object, classes: object) -> int | None:
    """The raw id that a key of a label map means; None where it means none."""
    found = None
    if isinstance(key, str):
        if classes and key in classes:
            if not isinstance(classes, Mapping) and list(classes).count(key) > 1:
                return None
            found = classes[key] if isinstance(classes, Mapping) else classes.index(key)
        else:
            stripped = key.strip()
            found = int(key) if stripped.lstrip("-").isdecimal() else None
    elif isinstance(key, int | np.integer) and not isinstance(key, bool):
        found = int(key)
    return found if found is not None and 0 <= found <= 65535 else None


def expected_table(tree, label_map, void, classes) -> dict[int, int] | None:
    """Node id by raw id; None where the arguments mean nothing."""
    if isinstance(void, bool) or not isinstance(void, int) or 0 <= void < tree.num_nodes:
        return None
    table = {void: void} if 0 <= void <= 65535 else {}
    if label_map is None:
        return {**table, **{v: v for v in range(tree.num_nodes)}}
    if not isinstance(label_map, Mapping):
        return None
    mapped = {}
    for key, value in label_map.items():
        raw_id, node = raw_id_of(key, classes), node_of(tree, value, void)
        if raw_id is None or node is None or mapped.setdefault(raw_id, node) != node:
            return None
    return {**table, **mapped}


def good_classes(classes: object) -> bool:
    if isinstance(classes, Mapping):
        return all(isinstance(k, str) and isinstance(v, int) for k, v in classes.items())
    return classes is None or (
        isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    )


@MANY
@given(
    st.sampled_from(TREES),
    label_maps,
    st.sampled_from([255, 255, -1, 65535, 70000, 0, 3, None, True, "255", 255.0]),
    raw_classes,
)
def test_a_label_map_is_refused_or_understood(tree, label_map, void, classes):
    expected = expected_table(tree, label_map, void, classes) if good_classes(classes) else None
    try:
        reader = LabelReader(tree, label_map, void, classes, name="x")
    except DatasetError as error:
        assert expected is None or not good_classes(classes), f"refused by: {error}"
        assert str(error)
        return
    if good_classes(classes):
        assert expected is not None, "taken, though it means nothing"
        known = np.flatnonzero(reader.known).tolist()
        assert {raw: int(reader.table[raw]) for raw in known} == expected


@settings(max_examples=500)
@given(
    st.sampled_from(TREES),
    st.dictionaries(st.integers(0, 9), st.integers(0, 1) | st.none(), max_size=9),
    st.lists(st.integers(0, 12) | st.sampled_from([255, 65535]), min_size=1, max_size=6),
)
def test_pixels_become_the_nodes_that_the_map_says(tree, label_map, pixels):
    reader = LabelReader(tree, label_map)
    table = {255: 255, **{raw: 255 if node is None else node for raw, node in label_map.items()}}
    raw = np.array([pixels], np.uint16)
    unknown = sorted(set(pixels) - set(table))
    if unknown:
        with pytest.raises(DatasetError, match="array: raw ids ") as caught:
            reader.lookup(raw)
        assert f"raw ids {str(unknown)[1:-1]} are" in str(caught.value)
    else:
        assert reader.lookup(raw).tolist() == [[table[pixel] for pixel in pixels]]


# -- label files -----------------------------------------------------------------------------------

LIMITS = {"1": 2, "L": 256, "P": 256, "I;16": 65536}


@st.composite
def pictures(draw: st.DrawFn) -> tuple[np.ndarray, bytes]:
    """Values, and a PNG of them."""
    mode = draw(st.sampled_from(sorted(LIMITS)))
    size = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.integers(0, LIMITS[mode], size)
    if mode == "P":
        values %= draw(st.sampled_from([2, 4, 16, 256]))  # Pillow packs few colours into bits
        image = Image.frombytes("P", size[::-1], values.astype(np.uint8).tobytes())
        image.putpalette(rng.integers(0, 256, 768, np.uint8).tobytes())
    else:
        dtype = {"1": bool, "L": np.uint8, "I;16": np.uint16}[mode]
        image = Image.fromarray(values.astype(dtype))
    file = io.BytesIO()
    bits = {2: 1, 4: 2, 16: 4}.get(values.max() + 1) if mode == "P" else None
    image.save(file, "PNG", **({"bits": bits} if bits else {}))
    return values, file.getvalue()


@st.composite
def damage(draw: st.DrawFn, content: bytes) -> bytes:
    """The same bytes with a few of them changed, lost, put in, or moved."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["change", "cut", "lose", "put in", "move"]))
        if kind == "cut":
            del data[place:]
        elif kind == "lose":
            del data[place : place + draw(st.integers(1, 40))]
        elif kind == "put in":
            data[place:place] = draw(st.binary(min_size=1, max_size=9))
        elif kind == "move":
            part = data[place : place + draw(st.integers(1, 60))]
            del data[place : place + len(part)]
            where = draw(st.integers(0, len(data)))
            data[where:where] = part
        elif data:
            data[place] ^= draw(st.integers(1, 255))
    return bytes(data)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("labels") / "label.png")


def write(path: str, content: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(content)


@settings(max_examples=500)
@given(pictures())
def test_a_whole_file_is_read_as_it_is(file, picture):
    values, content = picture
    write(file, content)
    assert np.array_equal(read_label_file(file), values)


@settings(max_examples=1500)
@given(st.data())
def test_a_damaged_file_is_refused_or_read_as_it_was(file, data):
    values, content = data.draw(pictures())
    write(file, data.draw(damage(content)))
    try:
        found = read_label_file(file)
    except DatasetError as error:
        assert file in str(error) and "\n" not in str(error)
        return
    assert np.array_equal(found, values)


@settings(max_examples=500)
@given(
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.integers(0, 17),
    st.integers(0, 8),
    st.integers(0, 3),
    st.binary(max_size=60),
    st.lists(st.sampled_from([b"PLTE", b"tRNS", b"eXIf", b"gAMA", b"abcd", b"IDAT"]), max_size=3),
    st.binary(max_size=12),
)
def test_a_file_that_only_looks_right_is_refused_or_gives_integers(
    file, size, bits, colour, interlace, pixels, kinds, content
):
    header = struct.pack(HEADER, *size, bits, colour, 0, 0, interlace)
    extra = b"".join(chunk(kind, content) for kind in kinds)
    image = chunk(b"IDAT", zlib.compress(pixels))
    write(file, b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + image + chunk(b"IEND", b""))
    try:
        found = read_label_file(file)
    except DatasetError as error:
        assert file in str(error) and "\n" not in str(error)
        return
    assert found.ndim == 2 and np.issubdtype(found.dtype, np.integer)
    assert found.shape[::-1] == size or b"eXIf" in kinds
    assert found.max() < 2 ** (16 if bits == 16 else 8)
