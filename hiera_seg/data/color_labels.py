"""Read colour-coded label files, in which each colour represents a raw id."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hiera_seg.errors import DatasetError

_HEX = re.compile(r"#([0-9a-fA-F]{6})")
_LIST = re.compile(r"[\[(]\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*[\])]")
_SHOWN = 10  # maximum number of unknown colours that an error lists


def parse_color(key: Any) -> int | None:
    """Return a key of a label map as red << 16 | green << 8 | blue; None if it is not a colour.

    Colours are "#ff0000", (255, 0, 0), or the text of such a list. DatasetError: a number in it is
    outside 0..255.
    """
    if isinstance(key, str):
        if match := _HEX.fullmatch(key.strip()):
            return int(match[1], 16)
        match = _LIST.fullmatch(key.strip())
        key = tuple(map(int, match.groups())) if match else None
    if not isinstance(key, tuple | list) or len(key) != 3:
        return None
    if not all(isinstance(value, int | np.integer) and 0 <= value <= 255 for value in key):
        raise DatasetError(f"label_map has the colour {key!r}; its numbers must be in 0..255")
    red, green, blue = map(int, key)
    return red << 16 | green << 8 | blue


def color_table(label_map: Mapping) -> tuple[np.ndarray, dict[int, Any]] | None:
    """Return the colours of a label map, int64 (K,) ascending, and {index of the colour: node}.

    None for a label map without colours. DatasetError: some keys are colours and some are not, or a
    colour occurs twice.
    """
    colors = {key: parse_color(key) for key in label_map}
    plain = [key for key, color in colors.items() if color is None]
    if len(plain) == len(colors):
        return None
    if plain:
        raise DatasetError(f"label_map has colours and the key {plain[0]!r}; specify colours only")
    ordered = sorted(set(colors.values()))
    if len(ordered) < len(colors):
        raise DatasetError("label_map has a colour twice, in two notations")
    nodes = {ordered.index(colors[key]): node for key, node in label_map.items()}
    return np.array(ordered, dtype=np.int64), nodes


def index_colors(rgb: np.ndarray, colors: np.ndarray, source: str) -> np.ndarray:
    """Return the index of the colour of each pixel of uint8 (H, W, 3) as (H, W) uint16.

    `colors` is as `color_table` returns it. DatasetError: other colours occur in the file `source`;
    the message lists the most frequent ones with counts.
    """
    packed = rgb.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    index = np.minimum(np.searchsorted(colors, packed), len(colors) - 1)
    unknown = colors[index] != packed
    if unknown.any():
        values, counts = np.unique(packed[unknown], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        raise DatasetError(
            f"{source}: {len(values)} colours are not in the label map: "
            f"{_list(values[order], counts[order])}; add each to it, with None for void"
        )
    return index.astype(np.uint16)


def _list(values: Iterable[int], counts: Iterable[int]) -> str:
    pairs = [f"#{value:06x} ({count} pixels)" for value, count in zip(values, counts, strict=True)]
    return ", ".join(pairs[:_SHOWN]) + ", ..." * (len(pairs) > _SHOWN)
