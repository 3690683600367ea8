"""Reading the files of a dataset: images, and labels exactly as they are stored."""

import io
import struct
import zlib

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps, UnidentifiedImageError

from hiera_seg.config import remote_scheme

MAX_RAW_ID = 65535  # of a 16-bit label file

_PNG = b"\x89PNG\r\n\x1a\n"

# Pillow opens grey files of 2 and 4 bits a pixel as 8-bit grey with the values stretched to 0..255.
_STRETCH = {"L;2": 85, "L;4": 17}

# What Detectron2's file reader fetches; schemes that a user's own code registers are that code's.
_DOWNLOADED = ("http", "https", "ftp", "detectron2", "catalog")

_LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
_PHOTOMETRIC = 262  # TIFF's tag of what 0 means


class DatasetError(ValueError):
    """A dataset that can not be used as it is; the message names the file or key and the remedy."""


def read_label_file(path: str) -> np.ndarray:
    """Read the values of a label file exactly as they are stored.

    Grey files of 1 to 16 bits and palette files (the index, not its colour) are understood, in
    any lossless format whose numbers Pillow hands out as they are. An EXIF orientation is applied,
    as it is to images.

    Args:
        path: an image file of one channel, in a lossless format.

    Returns:
        (H, W) uint8 or uint16; int32 where a file of 32 bits holds values outside 0..65535.

    Raises:
        DatasetError: no such file, not readable, or not one lossless channel of integers.
    """
    refuse_download(path)
    try:
        with PathManager.open(path, "rb") as file:
            content = file.read()
        _check_png(content, path)
        with Image.open(io.BytesIO(content)) as image:
            _check_label_image(image, path)
            stretch = _STRETCH.get(_raw_mode(image))
            image.load()
            if image.getexif().get(0x0112, 1) != 1:
                image = ImageOps.exif_transpose(image)
            values = np.asarray(image)
    except DatasetError:
        raise
    except FileNotFoundError as error:
        raise DatasetError(f"label file not found: {path}") from error
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        raise DatasetError(f"cannot read label file {path}: {_one_line(error)}") from error
    if stretch:
        values = values // stretch
    elif values.dtype == bool:
        values = values.astype(np.uint8)
    elif values.dtype == np.int32 and values.min() >= 0 and values.max() <= MAX_RAW_ID:
        values = values.astype(np.uint16)
    return values


def read_image_file(path: str, image_format: str = "RGB") -> np.ndarray:
    """Read an image as Detectron2's ``read_image`` does, EXIF orientation applied.

    Returns:
        (H, W, C) in the channel order of ``image_format``, uint8 (float for YUV).

    Raises:
        DatasetError: no such file, or not readable.
    """
    refuse_download(path)
    try:
        return detection_utils.read_image(path, format=image_format)
    except FileNotFoundError as error:
        raise DatasetError(f"image file not found: {path}") from error
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        raise DatasetError(f"cannot read image file {path}: {_one_line(error)}") from error


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
        + (" (does the image carry a rotation that the label lacks?)" if turned else "")
    )


def _check_png(content: bytes, path: str) -> None:
    """Check the sums of a PNG's pixels: Pillow stops at the last row, before it could see them."""
    if not content.startswith(_PNG):
        return
    start, kind = len(_PNG), b""
    while start < len(content) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content.ljust(start + 8, b"\0"), start)
        end = start + 8 + length
        expected = content[end : end + 4]
        critical = kind[:1].isupper()
        if critical and zlib.crc32(content[start + 4 : end]).to_bytes(4, "big") != expected:
            raise DatasetError(
                f"cannot read label file {path}: it is damaged or cut short, the checksum of its "
                f"part {kind.decode('latin1')!r} is wrong; copy or make it again"
            )
        start = end + 4


def _check_label_image(image: Image.Image, path: str) -> None:
    kind = image.format or ""
    compression = image.info.get("compression") if kind == "TIFF" else None
    if kind in _LOSSY_FORMATS or compression in _LOSSY_TIFF:
        inside = "" if kind in _LOSSY_FORMATS else f" with {compression} inside"
        raise DatasetError(
            f"label file {path} is a {kind}{inside}, whose compression can change label values; "
            "store labels as PNG"
        )
    if image.mode in ("RGB", "RGBA", "RGBX", "PA", "CMYK", "YCbCr", "HSV", "LAB"):
        raise DatasetError(
            f"label file {path} is colour-coded (mode {image.mode}); convert its colours to "
            "ids first, as grey or palette PNG"
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
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0:
        return "stores white as 0"
    if image.format == "PPM" and image.mode == "1":
        return "is a bitmap that stores black as 1"
    if image.format == "PPM" and image.tile and image.tile[0][0] != "raw":
        highest = image.tile[0][3][-1]  # (mode, maxval) of Pillow's decoders of the family
        if highest not in (255, MAX_RAW_ID):
            return f"has the highest value {highest}"
    return ""


def _raw_mode(image: Image.Image) -> str:
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
