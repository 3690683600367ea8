"""Open image files and check that they are whole; read labels exactly as they are stored."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError

from hiera_seg.config.checks import remote_scheme
from hiera_seg.data.array_files import is_array_file, read_array_file
from hiera_seg.data.color_labels import index_colors
from hiera_seg.data.regions import RegionLabels
from hiera_seg.errors import DatasetError

MAX_RAW_ID = 65535  # of a 16-bit label file

_PNG = b"\x89PNG\r\n\x1a\n"

# Pillow opens grey files of 2 and 4 bits a pixel as 8-bit grey with the values stretched to 0..255.
_STRETCH = {"L;2": 85, "L;4": 17}

# What Detectron2's file reader fetches; schemes that a user's own code registers are that code's.
_DOWNLOADED = ("http", "https", "ftp", "detectron2", "catalog")

_LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
_ORIENTATION = 0x0112  # the tag of EXIF and TIFF

# Tags of TIFF (Adobe's TIFF 6.0): the size, bits per channel, compression, what 0 means, and the
# bytes of every strip or tile.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_SIZES, _TILE_SIZES = 279, 325

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# First column, first row and steps of the seven passes of interlaced files (PNG, chapter 8.2).
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_BLOCK = 1 << 20  # bytes to decompress at a time


def read_label_file(
    path: str, *, exif: str = "apply", colors: np.ndarray | None = None
) -> np.ndarray:
    """Read the values of a label file exactly as they are stored.

    Grey files of 1 to 16 bits and palette files (the index, not its colour) are understood, in
    any lossless format whose numbers Pillow hands out as they are; also ``.npy`` and ``.mat``
    files that hold one array of integers (H, W).

    Args:
        path: an image file of one channel, in a lossless format, or an array file.
        exif: "apply" turns the labels by the file's EXIF orientation, as images are turned;
            "ignore" leaves them as they are stored.
        colors: for a colour-coded file the known colours, int64 (K,) ascending, each
            red << 16 | green << 8 | blue. Then values are indices into it.

    Returns:
        (H, W) uint8 or uint16; int32 where a file of 32 bits holds values outside 0..65535.

    Raises:
        DatasetError: no such file, not readable, cut short, or not one lossless channel of
            integers.
    """
    return read_oriented_label(path, exif, colors)[0]


def read_oriented_label(
    path: str, exif: str, colors: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
    """The values of a label file, see :func:`read_label_file`, and its EXIF orientation."""
    if isinstance(path, RegionLabels):
        return path.read(), 1
    if is_array_file(path):
        return read_array_file(path), 1
    with open_image(path, "label") as (image, content):
        _check_png_sums(content, path)
        _check_label_image(image, path, colors is not None)
        stretch = _STRETCH.get(raw_mode(image))
        orientation = exif_orientation(image)
        turn_by = load_pixels(image, content, exif)
        if colors is not None:
            image = image.convert("RGB")
        values = turn(np.asarray(image), turn_by)
    if colors is not None:
        return index_colors(values, colors, path), orientation
    if stretch:
        values = values // stretch
    elif values.dtype == bool:
        values = values.astype(np.uint8)
    elif values.dtype == np.int32 and values.min() >= 0 and values.max() <= MAX_RAW_ID:
        values = values.astype(np.uint16)
    return values, orientation


@contextmanager
def open_image(path: str, what: str) -> Iterator[tuple[Image.Image, bytes]]:
    """Open an image file, and turn every error of reading it into one that names it.

    Args:
        path: of the file.
        what: "image" or "label", for the message.

    Yields:
        The file as Pillow opens it, not decoded yet, and its bytes.

    Raises:
        DatasetError: no such file, or not readable.
    """
    refuse_download(path)
    try:
        with PathManager.open(path, "rb") as file:
            content = file.read()
        with Image.open(io.BytesIO(content)) as image:
            yield image, content
    except DatasetError:
        raise
    except FileNotFoundError as error:
        raise DatasetError(f"{what} file not found: {path}") from error
    except Exception as error:  # Pillow's decoders raise errors of many types
        raise DatasetError(f"cannot read {what} file {path}: {_one_line(error)}") from error


def load_pixels(image: Image.Image, content: bytes, exif: str) -> int:
    """Decode an opened image, and check that the file holds all of its pixels.

    Args:
        image: as :func:`open_image` gives it.
        content: the bytes of the file.
        exif: "apply" or "ignore".

    Returns:
        The EXIF orientation (1 to 8) by which the pixels are still to be turned.

    Raises:
        EOFError: pixel data end early.
    """
    stored = exif_orientation(image)
    image.load()
    if image.format == "PNG":
        _check_png_rows(image, content)
    elif image.format == "TIFF":
        _check_tiff_strips(image)
    # Newer versions of Pillow turn TIFF files (and no others) when they are decoded.
    turned_by_pillow = stored != exif_orientation(image)
    if exif == "ignore":
        return {6: 8, 8: 6}.get(stored, stored) if turned_by_pillow else 1
    return 1 if turned_by_pillow else stored


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened image, 1 (upright) to 8; 1 where there is none."""
    orientation = image.getexif().get(_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def turn(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (H, W, ...) pixels upright, as their EXIF orientation (1 to 8) tells a viewer to."""
    if orientation == 1:
        return values
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


def refuse_download(path: object, where: str = "") -> None:
    """Check that reading a file would not start a download.

    Args:
        path: of an image or label file.
        where: what names the file, for the message.

    Raises:
        DatasetError: Detectron2 would download it.
    """
    if remote_scheme(path) in _DOWNLOADED:
        raise DatasetError(
            f"{where}{path}: images and labels are not downloaded; download the file and name "
            "the local copy"
        )


def check_same_size(
    image_path: str, image_size: tuple[int, int], label_path: str, label_size: tuple[int, int]
) -> None:
    """Check that an image and its label file have the same (height, width).

    Raises:
        DatasetError: they have not; the message names both files.
    """
    (height, width), (label_h, label_w) = image_size, label_size
    if (height, width) == (label_h, label_w):
        return
    turned = (height, width) == (label_w, label_h)
    raise DatasetError(
        f"size differs: image {image_path} is {width}x{height}, label {label_path} is "
        f"{label_w}x{label_h}"
        + (
            " (does the image carry an EXIF orientation that the label lacks? INPUT.EXIF ignore "
            "leaves images as they are stored)"
            if turned
            else ""
        )
    )


def _check_png_sums(content: bytes, path: str) -> None:
    """Check the sums of a PNG's pixels: Pillow stops at the last row, before it could see them."""
    for kind, body, checksum in _png_chunks(content):
        critical = kind[:1].isupper()
        if critical and zlib.crc32(kind + body).to_bytes(4, "big") != checksum:
            raise DatasetError(
                f"cannot read label file {path}: it is damaged or cut short, the checksum of its "
                f"part {kind.decode('latin1')!r} is wrong; copy or make it again"
            )


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield the kind, the content and the checksum of every chunk of a PNG file."""
    if not content.startswith(_PNG):
        return
    start, kind = len(_PNG), b""
    while start < len(content) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content.ljust(start + 8, b"\0"), start)
        end = start + 8 + length
        yield kind, content[start + 8 : end], content[end : end + 4]
        start = end + 4


def _check_png_rows(image: Image.Image, content: bytes) -> None:
    """Raise EOFError where pixel data end early: Pillow leaves the missing rows 0, silently.

    Rows are decoded from top to bottom, unless they are interlaced, so that nothing is missing
    where the last row is not 0, and the data need not be decompressed a second time.
    """
    width, height = image.size
    header, data = b"", []
    for kind, body, _ in _png_chunks(content):
        if kind == b"IHDR":
            header = body
        elif kind == b"IDAT":
            data.append(body)
    _, _, bits, color, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if not interlaced and np.asarray(image.crop((0, height - 1, width, height))).any():
        return
    expected = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0:
            expected += rows * (1 + -(-columns * bits * _PNG_CHANNELS[color] // 8))
    found, stream = 0, zlib.decompressobj()
    for part in data:
        while found < expected:
            out = stream.decompress(part, _BLOCK)
            found, part = found + len(out), stream.unconsumed_tail
            if len(out) < _BLOCK:
                break
    if found < expected:
        raise EOFError(f"its pixel data end early, after {found} of {expected} bytes")


def _check_tiff_strips(image: Image.Image) -> None:
    """Raise EOFError where strips are missing: Pillow leaves their rows 0, silently.

    Libtiff, which reads compressed files, finds that by itself.
    """
    tags = image.tag_v2
    sizes = tags.get(_STRIP_SIZES) or tags.get(_TILE_SIZES)
    if tags.get(_COMPRESSION, 1) != 1 or not sizes:
        return
    row = tags[_WIDTH] * sum(tags.get(_BITS, (1,)))
    expected = tags[_HEIGHT] * -(-row // 8)
    if sum(sizes) < expected:
        raise EOFError(f"its pixel data end early, after {sum(sizes)} of {expected} bytes")


def _check_label_image(image: Image.Image, path: str, colored: bool) -> None:
    kind = image.format or ""
    compression = image.info.get("compression") if kind == "TIFF" else None
    if kind in _LOSSY_FORMATS or compression in _LOSSY_TIFF:
        inside = "" if kind in _LOSSY_FORMATS else f" with {compression} inside"
        raise DatasetError(
            f"label file {path} is a {kind}{inside}, whose compression can change label values; "
            "store labels as PNG"
        )
    if colored and image.mode in ("RGB", "RGBA", "P", "L", "1"):
        return
    if image.mode in ("RGB", "RGBA", "RGBX", "PA", "CMYK", "YCbCr", "HSV", "LAB"):
        raise DatasetError(
            f"label file {path} is colour-coded (mode {image.mode}); register the dataset with a "
            'label_map of colours, such as {"#ff0000": "car"}, or convert colours to ids'
        )
    if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
        raise DatasetError(
            f"label file {path} has mode {image.mode}; one channel of integers is wanted, as grey "
            "or palette PNG"
        )
    changed = _changed_by_pillow(image)
    if changed:
        raise DatasetError(
            f"label file {path} {changed}, so its numbers do not come out as they are stored; "
            "store labels as PNG"
        )


def _changed_by_pillow(image: Image.Image) -> str:
    """Why Pillow would scale or turn round the numbers of a grey image; "" where it would not."""
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == 0:
        return "stores white as 0"
    if image.format == "PPM" and image.mode == "1":
        return "is a bitmap that stores black as 1"
    if image.format == "PPM" and image.tile and image.tile[0][0] != "raw":
        highest = image.tile[0][3][-1]  # (mode, maxval) of Pillow's decoders of the family
        if highest not in (255, MAX_RAW_ID):
            return f"has the highest value {highest}"
    return ""


def raw_mode(image: Image.Image) -> str:
    """How the pixels are packed in the file, in Pillow's words."""
    if not image.tile:
        return ""
    options = image.tile[0][3]
    return options if isinstance(options, str) else next(iter(options or ()), "")


def _one_line(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its text is the address of a file object
        return "it is damaged, or no image"
    text = " ".join(str(error).split()) or "unreadable"
    return f"{type(error).__name__}: {text}"
