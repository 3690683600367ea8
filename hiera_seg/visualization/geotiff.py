"""Read the georeferencing of GeoTIFF images, for label maps and overlays of the same size."""

import os
import struct

from PIL.TiffImagePlugin import ImageFileDirectory_v2 as TiffTags

# GeoTIFF 1.1, OGC 19-008r4, 7.1: ModelPixelScale, ModelTiepoint, ModelTransformation,
# GeoKeyDirectory, GeoDoubleParams, GeoAsciiParams
GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
_ORIENTATION = 274
_BIG_TIFF = 43  # in place of 42 in the third or fourth byte; the header then has 16 bytes


def read_geo_tags(path: str | os.PathLike) -> TiffTags:
    """Read the georeferencing tags of a TIFF file.

    Args:
        path: an image file of any format.

    Returns:
        ``tiffinfo`` of Pillow; empty if the file is no GeoTIFF, or stores its rows and columns in
        another orientation, which its georeferencing would not fit after turning.
    """
    geo_tags = TiffTags()
    try:
        with open(path, "rb") as file:
            header = file.read(8)
            found = TiffTags(header + (file.read(8) if _BIG_TIFF in header[2:4] else b""))
            file.seek(found.next)
            found.load(file)
        if found.get(_ORIENTATION, 1) == 1:
            for tag in GEO_TAGS:
                if tag in found:
                    geo_tags.tagtype[tag] = found.tagtype[tag]
                    geo_tags[tag] = found[tag]
    except (OSError, SyntaxError, ValueError, struct.error):  # a camera, no TIFF, or damaged
        pass
    return geo_tags
