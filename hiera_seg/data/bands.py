"""Read images of any number of bands, and show three of them."""

from collections.abc import Sequence
from types import ModuleType

import numpy as np
from detectron2.data.detection_utils import convert_image_to_rgb

from hiera_seg.config.image_format import chosen_bands
from hiera_seg.data.open_file import open_file
from hiera_seg.errors import DatasetError

_TYPES = (".npy", ".tif", ".tiff")
ORIENTATION = 0x0112  # tag of EXIF and TIFF
_DARKEST, _BRIGHTEST = 2, 98  # percentiles of a band that are shown as 0 and 255


def is_band_file(path: str) -> bool:
    """Return whether :func:`read_all_bands` reads files of this type."""
    return path.lower().endswith(_TYPES)


def read_all_bands(path: str, num_bands: int | None = None) -> tuple[np.ndarray, int]:
    """Read all values of a .npy or TIFF file, (H, W, C) and not turned, and its EXIF orientation.

    `num_bands` distinguishes (C, H, W) from (H, W, C). If it is None, the first axis is that of the
    bands if it is shorter than the last one.

    Raises:
        DatasetError: the file cannot be read or does not hold one image, or tifffile is missing.
    """
    orientation, axes = 1, ""
    with open_file(path, "image") as file:
        if path.lower().endswith(".npy"):
            values = np.load(file, allow_pickle=False)
        else:
            with _tifffile(path).TiffFile(file) as tiff:
                values, axes = tiff.series[0].asarray(), tiff.series[0].axes
                tag = tiff.pages[0].tags.get(ORIENTATION)
                orientation = 1 if tag is None else int(tag.value)
    if values.ndim == 2:
        values, axes = values[:, :, None], ""
    if values.ndim != 3 or values.dtype.kind not in "iuf" or not values.size:
        raise DatasetError(
            f"image file {path}: expected numbers of shape (H, W), (H, W, bands) or (bands, H, W), "
            f"found {values.dtype} of shape {values.shape}"
        )
    return np.moveaxis(values, _band_axis(values.shape, axes, num_bands), 2), orientation


def select_bands(
    path: str,
    values: np.ndarray,
    image_format: str,
    num_channels: int | None = None,
    value_range: Sequence[float] = (),
) -> np.ndarray:
    """Return the bands that a model sees, (H, W, C) float32; NaN and infinities become 0.

    Args:
        path: the file, for messages.
        values: (H, W, C), all bands of the file.
        image_format: INPUT.FORMAT, "BANDS" or "BANDS:0,3,2".
        num_channels: number of channels of the model; None if it is not known.
        value_range: see :class:`~hiera_seg.data.images.ImageReader`.

    Raises:
        DatasetError: the file lacks a band, or has another number of bands than the model.
    """
    bands, stored = chosen_bands(image_format), values.shape[2]
    if bands and max(bands) >= stored:
        raise DatasetError(
            f"image file {path} has {stored} bands; INPUT.FORMAT {image_format!r} names band "
            f"{max(bands)}, where 0 is the first"
        )
    if not bands and num_channels not in (None, stored):
        raise DatasetError(
            f"image file {path} has {stored} bands, but MODEL.PIXEL_MEAN has {num_channels} "
            "numbers; set one per band, or choose bands, such as INPUT.FORMAT 'BANDS:0,3,2'"
        )
    chosen = values[:, :, list(bands)] if bands else values
    chosen = chosen.astype(np.float32)
    missing = ~np.isfinite(chosen)
    if value_range:
        low, high = value_range
        chosen = ((chosen - low) * (255 / (high - low))).clip(0, 255)
    chosen[missing] = 0
    return np.ascontiguousarray(chosen)


def as_rgb(image: np.ndarray, image_format: str, display_bands: Sequence[int] = ()) -> np.ndarray:
    """Convert what a model sees, (H, W, C) in `image_format`, to RGB, (H, W, 3) uint8.

    `display_bands` are the channels that are shown as red, green and blue; if it is empty, the
    first three, or the first as grey if there are less than three. Bands are stretched between
    their 2nd and 98th percentiles.
    """
    if chosen_bands(image_format) is None:
        return convert_image_to_rgb(image, image_format).astype(np.uint8)
    shown = image[:, :, list(display_bands or ((0, 1, 2) if image.shape[2] >= 3 else (0, 0, 0)))]
    low, high = np.percentile(shown, (_DARKEST, _BRIGHTEST), axis=(0, 1))
    width = np.where(high > low, high - low, 1)
    return ((shown - low) * (255 / width)).clip(0, 255).round().astype(np.uint8)


def _tifffile(path: str) -> ModuleType:
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise DatasetError(
            f"image file {path} cannot be read by Pillow; TIFF files of many bands need tifffile: "
            "pip install tifffile"
        ) from error
    return tifffile


def _band_axis(shape: tuple[int, ...], axes: str, num_bands: int | None) -> int:
    if "S" in axes:  # TIFF's samples per pixel
        return axes.index("S")
    if num_bands in (shape[0], shape[2]):
        return 2 if shape[2] == num_bands else 0
    return 0 if shape[0] < shape[2] else 2
