"""Open and decode image files, and reject truncated ones."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL import TiffImagePlugin as tiff

from hiera_seg.data.bands import ORIENTATION, is_band_file, read_all_bands
from hiera_seg.data.open_file import open_file
from hiera_seg.errors import DatasetError

_NEW_SUBFILE_TYPE, _TILE_BYTE_COUNTS = 254, 325  # tags of TIFF (Adobe's TIFF 6.0)


@contextmanager
def open_image(path: str, what: str) -> Iterator[tuple[Image.Image, bytes]]:
    """Open an image file as Pillow does, not decoded yet, and yield it with the file's bytes.

    Errors inside the context are re-raised as those of :func:`~hiera_seg.data.open_file.open_file`.
    """
    with open_file(path, what) as file:
        content = file.read()
        with Image.open(io.BytesIO(content)) as image:
            yield image, content


def load_pixels(image: Image.Image, content: bytes, exif: str) -> int:
    """Decode an opened image, and check that the file holds all of its pixels.

    Args:
        image, content: from :func:`open_image`.
        exif: "apply" or "ignore".

    Returns:
        The EXIF orientation (1 to 8) that is still to be applied to the pixels.

    Raises:
        EOFError: the pixel data end early.
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
    """Return the EXIF orientation of an opened image, 1 (upright, also if it has none) to 8."""
    orientation = image.getexif().get(ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def turn(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (H, W, ...) pixels upright by their EXIF orientation (1 to 8)."""
    if orientation == 1:
        return values
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


def read_size(path: str, exif: str) -> tuple[tuple[int, int], int]:
    """Return (height, width) of an image file after turning, and its EXIF orientation.

    The image is not decoded. `exif` is "apply" or "ignore"; errors are those of `open_image`.
    """
    try:
        with open_image(path, "image") as (image, _):
            orientation = exif_orientation(image)
            width, height = image.size
            if image.format == "TIFF":  # newer versions of Pillow give the size after turning
                width, height = image.tag_v2[tiff.IMAGEWIDTH], image.tag_v2[tiff.IMAGELENGTH]
    except DatasetError as error:
        if not isinstance(error.__cause__, UnidentifiedImageError) or not is_band_file(path):
            raise
        values, orientation = read_all_bands(path)
        height, width = values.shape[:2]
    turned = exif == "apply" and orientation >= 5  # these orientations swap height and width
    return ((width, height) if turned else (height, width)), orientation


def check_listed_size(path: str, size: tuple[int, int], record: dict) -> None:
    """Raise DatasetError if a dataset dict gives an image another size than (height, width)."""
    listed = (record.get("height", size[0]), record.get("width", size[1]))
    if listed != size:
        raise DatasetError(
            f"size differs: image {path} is {size[1]}x{size[0]}, its dataset lists "
            f"{listed[1]}x{listed[0]} (width x height)"
        )


def check_same_size(
    image_path: str, image_size: tuple[int, int], label_path: str, label_size: tuple[int, int]
) -> None:
    """Raise DatasetError if the (height, width) of an image and of its label file differ."""
    if tuple(image_size) == tuple(label_size):
        return
    hint = '; if the label shows the whole image, register the dataset with resize_labels="nearest"'
    if tuple(image_size) == tuple(label_size)[::-1]:
        hint = (
            " (if the image carries an EXIF orientation that the label lacks, INPUT.EXIF ignore "
            "leaves images as they are stored)"
        )
    raise DatasetError(
        f"size differs: image {image_path} is {image_size[1]}x{image_size[0]}, label {label_path} "
        f"is {label_size[1]}x{label_size[0]}{hint}"
    )


def raw_mode(image: Image.Image) -> str:
    """Return Pillow's name for how the pixels are packed in the file; "" if it has none."""
    if not image.tile:
        return ""
    options = image.tile[0][3]
    first = options if isinstance(options, str) else next(iter(options or ()), "")
    return first if isinstance(first, str) else ""  # GIF has numbers


def is_misread(image: Image.Image, content: bytes) -> bool:
    """Return whether Pillow reads only a part of a file, the first page or plane, or wrong values.

    The arguments are those of `load_pixels`, before that is called.
    """
    if image.format != "TIFF":
        return False
    tags, is_raw = image.tag_v2, bool(image.tile) and image.tile[0][0] == "raw"
    # Pillow takes the bytes of planes of 16 bits for values.
    wrong = is_raw and is_planar(tags) and max(tags.get(tiff.BITSPERSAMPLE, (1,))) > 8
    missing = len(image.getbands()) == 1 < tags.get(tiff.SAMPLESPERPIXEL, 1)
    return wrong or missing or len(tiff_pages(content)) > 1


def is_planar(tags: tiff.ImageFileDirectory_v2) -> bool:
    """Return whether a page of a TIFF file stores its channels one after the other."""
    return tags.get(tiff.PLANAR_CONFIGURATION, 1) == 2 and tags.get(tiff.SAMPLESPERPIXEL, 1) > 1


def tiff_pages(content: bytes) -> list[tiff.ImageFileDirectory_v2]:
    """Return the tags of the pages of a TIFF file that have the size of the first one.

    Reduced copies and masks of a page are left out (``NewSubfileType`` of Adobe's TIFF 6.0).
    """
    header = content[: 16 if content[2] == 43 else 8]  # 43: BigTIFF
    pages, seen, file = [tiff.ImageFileDirectory_v2(header)], {0}, io.BytesIO(content)
    while pages[-1].next < len(content) and pages[-1].next not in seen:
        seen.add(file.seek(pages[-1].next))
        pages.append(tiff.ImageFileDirectory_v2(header))
        pages[-1].load(file)
    whole = [page for page in pages[1:] if not page.get(_NEW_SUBFILE_TYPE, 0) & 0b101]
    sizes = [(page.get(tiff.IMAGEWIDTH), page.get(tiff.IMAGELENGTH)) for page in whole]
    return [page for page, size in zip(whole, sizes, strict=True) if size == sizes[0]]


def _check_png_rows(image: Image.Image, content: bytes) -> None:
    """Raise EOFError if pixels are missing; Pillow leaves them unchanged without an error."""
    width, height = image.size
    last_row = image.crop((0, height - 1, width, height))
    if not image.info.get("interlace") and np.asarray(last_row).any():
        return  # rows are decoded from top to bottom into an image of zeros
    with Image.open(io.BytesIO(content)) as again:
        again.im = Image.new(again.mode, again.size, 1).im  # decode into an image of ones
        again.load()
        if not np.array_equal(np.asarray(image), np.asarray(again)):
            raise EOFError("its pixel data end early")


def _check_tiff_strips(image: Image.Image) -> None:
    """Raise EOFError if strips of an uncompressed TIFF are missing, which only libtiff notices."""
    tags = image.tag_v2
    sizes = tags.get(tiff.STRIPBYTECOUNTS) or tags.get(_TILE_BYTE_COUNTS)
    if tags.get(tiff.COMPRESSION, 1) != 1 or not sizes:
        return
    row = tags[tiff.IMAGEWIDTH] * sum(tags.get(tiff.BITSPERSAMPLE, (1,)))
    expected = tags[tiff.IMAGELENGTH] * -(-row // 8)
    if sum(sizes) < expected:
        raise EOFError(f"its pixel data end early, after {sum(sizes)} of {expected} bytes")
