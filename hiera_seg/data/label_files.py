"""Read label files exactly as they are stored."""

import io

import numpy as np
from PIL import Image
from PIL import TiffImagePlugin as tiff

from hiera_seg.data.array_files import is_array_file, read_array_file
from hiera_seg.data.color_labels import index_colors
from hiera_seg.data.image_files import (
    exif_orientation,
    is_misread,
    load_pixels,
    open_image,
    raw_mode,
    turn,
)
from hiera_seg.data.regions import RegionLabels
from hiera_seg.errors import DatasetError

MAX_RAW_ID = 65535  # the largest id in a 16-bit label file

# Pillow opens grey files of 2 and 4 bits per pixel as 8-bit grey, with values stretched to 0..255.
_STRETCH = {"L;2": 85, "L;4": 17}
_LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
_KEYED_BY_COLOR = ("RGB", "RGBA", "P", "L", "1")  # modes that a label map of colours reads
_COLOR_MODES = ("RGB", "RGBA", "RGBX", "PA", "CMYK", "YCbCr", "HSV", "LAB")


def read_label_file(
    path: str,
    *,
    exif: str = "apply",
    colors: np.ndarray | None = None,
    variable: str | None = None,
) -> np.ndarray:
    """Read the values of a label file exactly as they are stored.

    Grey files of 1 to 16 bits and palette files (the index, not its colour) can be read, in any
    lossless format whose values Pillow does not change; also ``.npy`` and ``.mat`` files that hold
    one array of integers (H, W).

    Args:
        path: an image file of one channel, in a lossless format, or an array file.
        exif: "apply" turns the labels by the file's EXIF orientation, as images are turned;
            "ignore" leaves them as they are stored.
        colors: for a colour-coded file the known colours, int64 (K,) ascending, each
            red << 16 | green << 8 | blue. The result then holds indices into `colors`.
        variable: name of the label map in a ``.mat`` file with several arrays.

    Returns:
        (H, W) uint8 or uint16; int32, or int64 of an array file, if a value is outside 0..65535.

    Raises:
        DatasetError: the file is missing, unreadable or cut short, or does not hold one lossless
            channel of integers.
    """
    return read_oriented_label(path, exif, colors, variable)[0]


def read_oriented_label(
    path: str,
    exif: str,
    colors: np.ndarray | None = None,
    variable: str | None = None,
    wide: bool = False,
) -> tuple[np.ndarray, int]:
    """Read a label file by :func:`read_label_file`; return its values and EXIF orientation.

    `wide` is as in `read_array_file`.
    """
    if isinstance(path, RegionLabels):
        return path.read(), 1
    if is_array_file(path):
        if colors is not None:
            raise DatasetError(
                f"label file {path} is an array of ids, but the keys of the label map are colours; "
                "store colours as RGB PNG, or specify a label map of ids"
            )
        return read_array_file(path, variable, wide=wide), 1
    with open_image(path, "label") as (image, content):
        _check_label_image(image, content, path, colors is not None)
        stretch = _STRETCH.get(raw_mode(image))
        orientation = exif_orientation(image)
        turn_by = load_pixels(image, content, exif)
        if image.format == "PNG":  # loading stops at the last row, before the last checksum
            Image.open(io.BytesIO(content)).verify()
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


def _check_label_image(image: Image.Image, content: bytes, path: str, colored: bool) -> None:
    kind = image.format or ""
    compression = image.info.get("compression") if kind == "TIFF" else None
    if kind in _LOSSY_FORMATS or compression in _LOSSY_TIFF:
        inside = "" if kind in _LOSSY_FORMATS else f" with {compression} inside"
        problem = f"is a {kind}{inside}, whose compression can change label values"
    elif is_misread(image, content):
        problem = "has several pages or channels, of which only the first would be read"
    elif colored and image.mode in _KEYED_BY_COLOR and ";16" not in raw_mode(image):
        return
    elif colored:
        problem = (
            f"has {raw_mode(image) or image.mode} pixels, but the keys of the label map are "
            "colours of 8 bits per channel"
        )
    elif image.mode in _COLOR_MODES:
        problem = (
            f"is colour-coded (mode {image.mode}), but the dataset has no label_map of colours"
        )
    elif image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
        problem = f"has mode {image.mode}, but one channel of integers is expected"
    elif changed := _changed_by_pillow(image):
        problem = f"{changed}; its values would not be read as stored"
    else:
        return
    raise DatasetError(f"label file {path} {problem}; store labels as grey or palette PNG")


def _changed_by_pillow(image: Image.Image) -> str:
    """Return why Pillow would scale or invert the values of a grey image; "" if it would not."""
    if image.format == "TIFF" and image.tag_v2.get(tiff.PHOTOMETRIC_INTERPRETATION) == 0:
        return "stores white as 0"
    if image.format == "PPM" and image.mode == "1":
        return "is a bitmap that stores black as 1"
    if image.format == "PPM" and image.tile and image.tile[0][0] != "raw":
        highest = image.tile[0][3][-1]  # the decoder's arguments are (mode, maxval)
        if highest not in (255, MAX_RAW_ID):
            return f"has the highest value {highest}"
    return ""
