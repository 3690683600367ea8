"""Copy the georeferencing of GeoTIFF images to label maps and overlays of the same size."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from hiera_seg.disk import replace_file
from hiera_seg.errors import DatasetError

# GeoTIFF 1.1, OGC 19-008r4, 7.1: ModelPixelScale, ModelTiepoint, ModelTransformation,
# GeoKeyDirectory, GeoDoubleParams, GeoAsciiParams
GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
_ORIENTATION = 274

GeoTags = Sequence[tuple[Any, ...]]


def read_geo_tags(path: str | os.PathLike) -> GeoTags:
    """Read the georeferencing tags of a TIFF file.

    Args:
        path: an image file of any format.

    Returns:
        ``extratags`` of tifffile; empty if the file is no GeoTIFF, or stores its rows and columns
        in another orientation, which its georeferencing would not fit after turning.

    Raises:
        DatasetError: it is a GeoTIFF, and tifffile is not installed.
    """
    try:
        with open(path, "rb") as file:
            if file.read(2) not in (b"II", b"MM"):
                return []
        tifffile = _import_tifffile(path)
        with tifffile.TiffFile(path) as file:
            found = file.pages[0].tags
            if _ORIENTATION in found and found[_ORIENTATION].value != 1:
                return []
            return [
                (tag, int(found[tag].dtype), found[tag].count, found[tag].value, True)
                for tag in GEO_TAGS
                if tag in found
            ]
    except DatasetError:
        if _has_geo_tags(path):
            raise
        return []
    except (OSError, ValueError):  # of a camera, or damaged; tifffile's errors are ValueErrors
        return []


def write_geotiff(
    path: str | os.PathLike,
    pixels: np.ndarray,
    geo_tags: GeoTags,
    palette: np.ndarray | None = None,
) -> None:
    """Write a GeoTIFF, losslessly compressed.

    Args:
        path: of the file.
        pixels: (H, W) uint8 or uint16, or (H, W, 3) uint8 RGB.
        geo_tags: as of :func:`read_geo_tags`.
        palette: (256, 3) uint8 RGB, the colors of values of 8 bits.

    Raises:
        DatasetError: tifffile is not installed.
        OSError: the file cannot be written.
    """
    tifffile = _import_tifffile(path)
    options: dict[str, Any] = {"photometric": "rgb" if pixels.ndim == 3 else "minisblack"}
    if palette is not None:
        options = {"photometric": "palette", "colormap": palette.T.astype(np.uint16) * 257}
    replace_file(
        path,
        lambda file: tifffile.imwrite(
            file, pixels, extratags=geo_tags, compression="zlib", metadata=None, **options
        ),
    )


def _has_geo_tags(path: str | os.PathLike) -> bool:
    """Return whether Pillow finds georeferencing tags, for systems without tifffile."""
    try:
        with Image.open(path) as image:
            return any(tag in getattr(image, "tag_v2", {}) for tag in GEO_TAGS)
    except OSError:
        return False


def _import_tifffile(path: str | os.PathLike) -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise DatasetError(
            f"{os.fspath(path)}: keeping the georeferencing of a GeoTIFF requires tifffile; run "
            'pip install tifffile (the extra "tiff" of hiera_seg)'
        ) from error
    return tifffile
