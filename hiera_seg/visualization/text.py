"""Draw text on images in the font that comes with Matplotlib."""

from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import ImageDraw, ImageFont


@lru_cache(maxsize=64)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return Matplotlib's DejaVu Sans with a height of `size` pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf" / name), size)


@lru_cache(maxsize=4096)
def text_width(text: str, size: int, bold: bool = False) -> int:
    """Return the width of a line of text in pixels."""
    return int(font(size, bold).getlength(text) + 0.999)


def shorten(text: str, width: int, size: int, bold: bool = False) -> str:
    """Shorten a text to `width` pixels with an ellipsis."""
    if text_width(text, size, bold) <= width:
        return text
    while text and text_width(text + "…", size, bold) > width:
        text = text[:-1]
    return text + "…"


def draw_text(
    draw: ImageDraw.ImageDraw,
    xy: tuple[float, float],
    text: str,
    size: int,
    color: tuple[int, int, int],
    *,
    bold: bool = False,
    anchor: str = "lm",
    halo: tuple[int, int, int] | None = None,
) -> None:
    """Draw one line of text; a `halo` keeps it readable on any background."""
    stroke = 0 if halo is None else max(1, size // 8)
    draw.text(
        xy, text, fill=color, font=font(size, bold), anchor=anchor, stroke_width=stroke,
        stroke_fill=halo,
    )  # fmt: skip
