"""Read the values of INPUT.FORMAT, which names the channels of images."""

import re

from hiera_seg.errors import ConfigError

_BANDS = re.compile(r"BANDS(?::(\d+(?:,\d+)*))?")
_NUM_COLORS = {"RGB": 3, "BGR": 3, "L": 1, "YUV-BT.601": 3}


def chosen_bands(image_format: str) -> tuple[int, ...] | None:
    """Return the bands that a value of INPUT.FORMAT selects.

    Returns:
        (0, 3, 2) for "BANDS:0,3,2"; () for "BANDS", which means all; None for a format of colours.

    Raises:
        ConfigError: the value begins with "BANDS" and has another form.
    """
    match = _BANDS.fullmatch(image_format)
    if match is None:
        if image_format.upper().startswith("BANDS"):
            raise ConfigError(
                f"INPUT.FORMAT is {image_format!r}; write 'BANDS' for all bands, or their numbers "
                "from 0, such as 'BANDS:0,3,2'"
            )
        return None
    return tuple(map(int, match[1].split(","))) if match[1] else ()


def num_channels(image_format: str) -> int | None:
    """Return the number of channels of images in a format; None if it depends on the files."""
    bands = chosen_bands(image_format)
    return _NUM_COLORS.get(image_format) if bands is None else len(bands) or None
