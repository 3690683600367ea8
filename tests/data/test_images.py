import io
import struct

import numpy as np
import pytest
import tifffile
from detectron2.data import MetadataCatalog
from PIL import Image, ImageOps

from hiera_seg.data import LabelReader, read_image_file, read_label_file
from hiera_seg.data.images import ImageReader
from hiera_seg.data.label_writer import convert_labels
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.evaluation import HieraSemSegEvaluator
from hiera_seg.hierarchy import Hierarchy
from tests.data.png_files import png, png_of
from tests.helpers import plain_mapper

RAMP = (np.arange(24).reshape(4, 6) * 2500).astype(np.uint16)


def tiff(values):
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="rgb" if values.ndim == 3 else "minisblack")
    return file.getvalue()


def with_tag(content, tag, value):
    """A TIFF file of one image with another value of a tag."""
    start = struct.unpack_from("<I", content, 4)[0] + 2
    while struct.unpack_from("<H", content, start)[0] != tag:
        start += 12
    return content[:start] + struct.pack("<HHII", tag, 4, 1, value) + content[start + 12 :]


@pytest.fixture
def write(tmp_path):
    def save(name, content, **options):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            Image.fromarray(content).save(path, **options)
        return str(path)

    return save


# -- more than 8 bits ------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "lzw.tif", "big.tif", "a.jp2", "a.pgm"])
def test_16_bit_grey_keeps_its_upper_byte(write, name, image_format):
    options = {"compression": "tiff_lzw"} if name == "lzw.tif" else {}
    options |= {"irreversible": False} if name == "a.jp2" else {}
    path = write(name, RAMP.astype(">u2") if name == "big.tif" else RAMP, **options)
    image = read_image_file(path, image_format)
    assert image.dtype == np.uint8
    assert np.array_equal(image, np.repeat((RAMP >> 8)[..., None], 3, -1))
    scaled = read_image_file(path, image_format, value_range=[2500, 40000])[..., 0]
    expected = (RAMP.astype(float) - 2500) / 37500 * 255
    assert np.array_equal(scaled, expected.clip(0, 255).round())


@pytest.mark.parametrize("form", ["rgb.png", "rgba.png", "grey_alpha.png", "rgb.tif"])
def test_16_bit_colours_keep_their_upper_byte_and_a_range_their_contrast(write, form):
    pytest.importorskip("cv2")
    dark = np.stack([RAMP, RAMP // 2, RAMP // 3, RAMP], -1) // 16  # as of a camera of 12 bits
    color = {"rgb.png": 2, "rgba.png": 6, "grey_alpha.png": 4, "rgb.tif": None}[form]
    values = dark[..., {2: [0, 1, 2], 6: [0, 1, 2, 3], 4: [0, 3], None: [0, 1, 2]}[color]]
    path = write(form, tiff(values) if color is None else png_of(values, 16, color))
    channels = values[..., :3] if color != 4 else np.repeat(values[..., :1], 3, -1)
    assert np.array_equal(read_image_file(path, "RGB"), channels >> 8)
    found = read_image_file(path, "BGR", value_range=(0, 4095))
    expected = (channels[..., ::-1].astype(float) / 4095 * 255).clip(0, 255).round()
    assert np.array_equal(found, expected) and found.max() > 200


def test_pgm_files_say_their_highest_value(write):
    values = np.arange(6).reshape(2, 3) * 200
    binary = b"P5 3 2 1023\n" + values.astype(">u2").tobytes()
    plain = b"P2 3 2 1023\n" + " ".join(map(str, values.ravel())).encode()
    for content in (binary, plain):
        path = write("a.pgm", content)
        assert read_image_file(path)[..., 0].tolist() == (values >> 2).tolist()
        scaled = read_image_file(path, value_range=(200, 800))[..., 0]
        assert scaled.tolist() == [[0, 0, 85], [170, 255, 255]]


@pytest.mark.parametrize("highest", [4095, 65535])
def test_ppm_files_of_more_than_8_bits_keep_their_contrast(write, highest):
    pytest.importorskip("cv2")
    values = np.arange(18).reshape(2, 3, 3) * 200
    binary = f"P6 3 2 {highest}\n".encode() + values.astype(">u2").tobytes()
    plain = f"P3 3 2 {highest}\n".encode() + " ".join(map(str, values.ravel())).encode()
    for content in (binary, plain + b"\n"):
        path = write("a.ppm", content)
        upper = values * 255 / highest
        assert np.abs(read_image_file(path) - upper).max() <= 1
        scaled = read_image_file(path, value_range=(200, 2240))
        assert np.array_equal(scaled, ((values - 200) / 8).clip(0, 255).round())
        assert np.array_equal(read_image_file(path, "BANDS"), values)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_planes_of_16_bits_are_colours(tmp_path, compression, orientation):
    planes, path = np.stack([RAMP, RAMP // 2, RAMP // 3]), str(tmp_path / "a.tif")
    tifffile.imwrite(
        path, planes, photometric="rgb", planarconfig="separate", compression=compression,
        extratags=[(274, "H", 1, orientation, True)],
    )  # fmt: skip
    values = np.rot90(np.moveaxis(planes, 0, 2), 0 if orientation == 1 else -1)
    assert np.array_equal(read_image_file(path), values >> 8)
    scaled = read_image_file(path, value_range=(0, 51000))
    assert np.array_equal(scaled, (values / 200).clip(0, 255).round())


@pytest.mark.parametrize("white_is_0", [False, True])
def test_a_tiff_may_store_white_as_0(write, white_is_0):
    path = write("a.tif", with_tag(tiff(RAMP), 262, int(not white_is_0)))
    upper = RAMP >> 8
    assert np.array_equal(read_image_file(path)[..., 0], 255 - upper if white_is_0 else upper)


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6),
        RAMP.astype(np.float32) - 7,
        RAMP.astype(np.int32) * 9,
        np.arange(24, dtype=np.int32).reshape(4, 6),
        np.linspace(0, 1, 72, dtype=np.float32).reshape(4, 6, 3),
    ],
    ids=["0..1", "floats", "integers", "small", "colours"],
)
def test_values_without_a_brightness_need_a_range(write, values):
    if values.ndim == 3:
        pytest.importorskip("cv2")
    path = write("a.tif", tiff(values))
    with pytest.raises(DatasetError) as error:
        read_image_file(path)
    low, high = values.min(), values.max()
    assert path in str(error.value) and "INPUT.IMAGE_RANGE" in str(error.value)
    assert f"{low:g}" in str(error.value) and f"{high:g}" in str(error.value)
    found = read_image_file(path, value_range=(float(low), float(high)))
    expected = (values.astype(float) - low) / (float(high) - low) * 255
    expected = expected if values.ndim == 3 else np.repeat(expected[..., None], 3, -1)
    assert np.abs(found - expected).max() <= 0.5001


def test_missing_values_are_0(write):
    values = np.array([[np.nan, 1, 2], [np.inf, -np.inf, 3]], np.float32)
    path = write("a.tif", tiff(values))
    assert read_image_file(path, value_range=(1, 3))[..., 0].tolist() == [
        [0, 0, 128],
        [255, 0, 255],
    ]


def test_8_bit_images_are_read_as_detectron2_reads_them(write, tmp_path):
    from detectron2.data.detection_utils import read_image

    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (5, 7, 4), np.uint8), "RGBA")
    paths = []
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        rgba.convert(mode).save(path)
        paths.append(str(path))
    see_through = rgba.convert("RGB").quantize(8)
    for kind in ("png", "gif"):
        paths.append(str(tmp_path / f"see_through.{kind}"))
        see_through.save(paths[-1], transparency=3)
    for path in paths:
        for image_format in ("RGB", "BGR", "L", "YUV-BT.601"):
            for value_range in ((), (0, 4095)):
                found = read_image_file(path, image_format, value_range=value_range)
                assert np.array_equal(found, read_image(path, image_format)), (path, image_format)


@pytest.mark.parametrize("value", [[1], [3, 3], [5, 2], [0, float("nan")], ["a", "b"], [0, 1, 2]])
def test_a_range_that_cannot_be_one_is_named(value):
    with pytest.raises(ConfigError, match="INPUT.IMAGE_RANGE"):
        ImageReader("RGB", value)
    with pytest.raises(ConfigError, match="INPUT.EXIF is 'turn'"):
        ImageReader("RGB", exif="turn")


# -- EXIF orientations -----------------------------------------------------------------------


def turned(values, orientation):
    """What a viewer shows, by Pillow's own table."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", exif=exif)
    return np.asarray(ImageOps.exif_transpose(Image.open(file)))


@pytest.mark.parametrize("suffix", ["png", "tif", "lzw.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_and_labels_are_turned_or_not_together(write, orientation, suffix):
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"compression": "tiff_lzw"} if suffix == "lzw.tif" else {}
    path = write(f"a.{suffix}", values, exif=exif, **options)
    deep = write(f"deep.{suffix}", values.astype(np.uint16) << 8, exif=exif, **options)
    upright = turned(values, orientation)
    for how, expected in (("apply", upright), ("ignore", values)):
        assert read_label_file(path, exif=how).tolist() == expected.tolist()
        assert read_image_file(path, "RGB", exif=how)[..., 1].tolist() == expected.tolist()
        assert read_image_file(deep, "RGB", exif=how)[..., 1].tolist() == expected.tolist()


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_the_mapper_and_the_evaluators_labels_follow_the_key(photo, tree, tmp_path, exif):
    labels, record = photo(6)
    mapper = plain_mapper(tree, exif=exif)
    sample = mapper(record)
    expected = np.rot90(labels, -1) if exif == "apply" else labels
    assert sample["image"][0].tolist() == expected.tolist()  # red is the label
    assert sample["sem_seg"].tolist() == labels.tolist()
    meta = MetadataCatalog.get("photos")
    Image.open(record["file_name"]).getchannel(0).save(
        record["sem_seg_file_name"], exif=Image.open(record["file_name"]).getexif()
    )
    written = list(convert_labels("photos", str(tmp_path / "out"), exif=exif))
    assert read_label_file(written[1], exif="ignore").tolist() == expected.tolist()
    reader = LabelReader.from_metadata(meta, exif)
    assert reader(record["sem_seg_file_name"]).tolist() == expected.tolist()
    larger = Hierarchy.from_dict({**tree.to_dict()["tree"], "more": ["x"]})
    for hierarchy in (tree, larger):  # where the truth is translated, too
        evaluator = HieraSemSegEvaluator("photos", False, hierarchy=hierarchy, exif=exif)
        evaluator.process([record], [{"hiera_labels": [expected.astype(np.int64)]}])
        assert evaluator.evaluate()["sem_seg"]["pACC"] == 100
    assert mapper(record)["sem_seg"].tolist() == expected.tolist()


# -- files that end early --------------------------------------------------------------------


def short_files():
    for bits in (1, 2, 4, 8, 16):
        row = b"\0" + bytes([1] * bits)
        for color in (0, 3):
            if not (color == 3 and bits == 16):
                yield f"{'palette' if color else 'grey'} {bits}", png(8, 8, bits, color, row * 4)
        # Interlaced: the first six passes alone, all 1; the seventh holds every other row.
        passes = ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4))
        rows = [(b"\0" + b"\xff" * -(-width * bits // 8)) * height for width, height in passes]
        yield f"interlaced {bits}", png(8, 8, bits, 0, b"".join(rows), interlaced=1)
    yield "no rows", png(8, 8, 8, 0, b"")
    full = np.ones((8, 8), np.uint8)
    yield "tiff", tiff(full)[:-32]
    # Half of the rows, followed by other bytes: nothing tells Pillow that these are no pixels.
    yield "tiff strip", with_tag(tiff(full), 279, 32)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        file = io.BytesIO()
        Image.fromarray(full[:4]).save(file, "TIFF", compression=compression)
        # Eight rows, of which the file holds four
        yield compression, with_tag(with_tag(file.getvalue(), 257, 8), 278, 8)


SHORT = dict(short_files())


@pytest.mark.parametrize("name", SHORT)
def test_pixel_data_that_end_early_are_an_error(write, name):
    path = write("short.tif" if SHORT[name].startswith(b"II") else "short.png", SHORT[name])
    for read in (read_label_file, read_image_file):
        with pytest.raises(DatasetError, match=r"short\.(png|tif)"):
            read(path)


def test_short_images_of_colours_are_an_error(write):
    rows = (b"\0" + bytes([1] * 24)) * 4
    with pytest.raises(DatasetError, match=r"cannot read image file .*short\.png.*end early"):
        read_image_file(write("short.png", png(8, 8, 8, 2, rows)))
    rng = np.random.default_rng(0)
    for suffix in ("jpg", "bmp", "tif", "webp", "gif"):
        path = write(f"a.{suffix}", rng.integers(0, 255, (64, 64), np.uint8))
        with open(path, "rb") as file:
            content = file.read()
        path = write(f"cut.{suffix}", content[: len(content) * 2 // 3])
        with pytest.raises(DatasetError, match=rf"cannot read image file .*cut\.{suffix}"):
            read_image_file(path)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (8, 8), (9, 17)])
def test_whole_files_of_zeros_are_read(write, size, interlaced):
    height, width = size
    if interlaced:
        seven = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4))
        seven += ((1, 0, 2, 2), (0, 1, 1, 2))
        rows = b""
        for left, top, across, down in seven:
            columns, lines = len(range(left, width, across)), len(range(top, height, down))
            rows += (b"\0" + bytes(-(-columns // 8))) * lines if columns else b""
    else:
        rows = (b"\0" + bytes(-(-width // 8))) * height
    path = write("zeros.png", png(width, height, 1, 0, rows, int(interlaced)))
    assert read_label_file(path).tolist() == np.zeros(size).tolist()
    assert read_image_file(path).shape == (*size, 3)
