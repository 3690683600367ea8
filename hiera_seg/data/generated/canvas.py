"""The painter: camera, picture, label map, and the few shapes everything is drawn with.

World units are centimetres: X to the right, Y up, Z away from the camera. All arithmetic is on
integers (see `stream.py` for why).
"""

from collections.abc import Sequence
from itertools import pairwise
from math import isqrt

import numpy as np

from hiera_seg.data.generated.stream import TILE, Stream, noise_tile

Colour = tuple[int, int, int]
Point = tuple[int, int]
NEAR = 160  # nothing closer than this many centimetres is projected


class Camera:
    """A pinhole camera that looks along the street, its horizon level.

    Args:
        width: picture width in pixels.
        focal: focal length in pixels.
        centre: column of the vanishing point.
        horizon: row of the horizon.
        height: of the camera above the road, cm.
    """

    def __init__(self, width: int, focal: int, centre: int, horizon: int, height: int):
        self.width = width
        self.focal = focal
        self.centre = centre
        self.horizon = horizon
        self.height = height

    def x(self, x: int, z: int) -> int:
        return self.centre + self.focal * x // max(z, NEAR)

    def y(self, y: int, z: int) -> int:
        return self.horizon + self.focal * (self.height - y) // max(z, NEAR)

    def point(self, x: int, y: int, z: int) -> Point:
        return self.x(x, z), self.y(y, z)

    def pixels(self, length: int, z: int) -> int:
        """Length on the picture of `length` cm at distance z, at least one pixel."""
        return max(1, self.focal * length // max(z, NEAR))


class Canvas:
    """The picture being painted, far things first.

    Attributes:
        rgb: int16 (3, H, W), not clipped until the scene is finished.
        label: uint8 (H, W) node ids.
        rank: int16 (H, W), number of the object that owns the pixel; later objects are nearer.
    """

    def __init__(self, height: int, width: int, haze: Colour, haze_reach: int):
        self.height = height
        self.width = width
        self.rgb = np.zeros((3, height, width), dtype=np.int16)
        self.label = np.zeros((height, width), dtype=np.uint8)
        self.rank = np.zeros((height, width), dtype=np.int16)
        self.haze = haze
        self.haze_reach = haze_reach
        self._objects = 0

    def new_object(self) -> int:
        """Rank for the next object; everything painted with one rank has no rim within."""
        self._objects += 1
        return self._objects

    def haze_share(self, z):
        """How much of the haze colour stands before something at distance z, in 1/256."""
        return z * 256 // (z + self.haze_reach)

    def hazed(self, colour: Colour, z: int) -> Colour:
        """A colour as seen through the air in front of distance z."""
        t = self.haze_share(z)
        return tuple(c + ((h - c) * t >> 8) for c, h in zip(colour, self.haze, strict=False))

    def put(
        self,
        y: int,
        x: int,
        mask: np.ndarray,
        colour,
        label: int | None = None,
        rank: int | None = None,
    ) -> None:
        """Paint where `mask` (h, w) is true, its corner at row y, column x, within the canvas.

        Args:
            colour: three numbers, or an int array that broadcasts with (3, h, w).
            label, rank: written beside the colour unless None (then only the look changes).
        """
        h, w = mask.shape
        colour = np.asarray(colour, dtype=np.int16)
        if colour.ndim == 1:
            colour = colour[:, None, None]
        np.copyto(self.rgb[:, y : y + h, x : x + w], colour, where=mask)
        if label is not None:
            np.copyto(self.label[y : y + h, x : x + w], np.uint8(label), where=mask)
        if rank is not None:
            np.copyto(self.rank[y : y + h, x : x + w], np.int16(rank), where=mask)

    def darken(self, y: int, x: int, mask: np.ndarray, share: int) -> None:
        """Multiply the colours under the mask by share / 256: a shadow."""
        h, w = mask.shape
        view = self.rgb[:, y : y + h, x : x + w]
        np.copyto(view, (view.astype(np.int32) * share >> 8).astype(np.int16), where=mask)

    def clip(self, x0: int, y0: int, x1: int, y1: int):
        """The part of a box inside the canvas as (x0, y0, x1, y1), or None."""
        x0, y0 = max(x0, 0), max(y0, 0)
        x1, y1 = min(x1, self.width), min(y1, self.height)
        return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def grain(height: int, width: int, strength: int, stream: Stream, cell: int = 4) -> np.ndarray:
    """A piece of noise for a surface.

    Args:
        height, width: size in pixels, at most TILE.
        strength: largest amplitude in grey values.
        stream: where to cut it from.
        cell: size of the coarsest grains in pixels.

    Returns:
        int16 (height, width).
    """
    tile = noise_tile(cell, 2)
    oy, ox = stream.below(TILE), stream.below(TILE)
    rows = (np.arange(oy, oy + height) & (TILE - 1))[:, None]
    columns = np.arange(ox, ox + width) & (TILE - 1)
    return tile[rows, columns] * np.int16(strength) >> 7


def polygon_mask(canvas: Canvas, points: Sequence[Point]):
    """Rasterise a convex polygon, corners in pixels.

    Returns:
        (y, x, mask) for `Canvas.put`, or None where nothing of it is on the canvas. A polygon
        thinner than a pixel still covers one pixel in each of its rows.
    """
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    top, bottom = min(ys), max(ys)
    box = canvas.clip(min(xs), top, max(xs) + 1, max(bottom, top + 1))
    if box is None:
        return None
    x0, y0, x1, y1 = box
    # Where every edge, from its upper end (ax, ay) to its lower one, crosses every row's middle.
    edges = [(*a, *b) if a[1] < b[1] else (*b, *a) for a, b in pairwise([*points, points[0]])]
    ax, ay, bx, by = np.array(edges, dtype=np.int64).T[:, :, None]
    rows = np.arange(y0, y1, dtype=np.int64)
    cross = ax + (2 * (rows - ay) + 1) * (bx - ax) // np.maximum(2 * (by - ay), 1)
    valid = (rows >= ay) & (rows < by)
    left = np.where(valid, cross, x1).min(axis=0)
    right = np.where(valid, cross, x0).max(axis=0)
    if top == bottom:
        left[:], right[:] = min(xs), max(xs)
    right = np.maximum(right, left + 1)
    columns = np.arange(x0, x1, dtype=np.int64)
    return y0, x0, (columns >= left[:, None]) & (columns < right[:, None])


def polygon(
    canvas: Canvas,
    points: Sequence[Point],
    colour: Colour,
    label: int | None = None,
    rank: int | None = None,
    grains: int = 0,
    stream: Stream | None = None,
) -> None:
    """Fill a convex polygon, with noise of `grains` grey values where a stream is given."""
    found = polygon_mask(canvas, points)
    if found is None:
        return
    y, x, mask = found
    if grains and stream is not None:
        noise = grain(*mask.shape, grains, stream)
        colour = np.asarray(colour, dtype=np.int16)[:, None, None] + noise
    canvas.put(y, x, mask, colour, label, rank)


def ellipse_metric(canvas: Canvas, cx: int, cy: int, rx: int, ry: int, margin: int = 0):
    """Squared distance from an ellipse's centre, 4096 on its outline.

    Returns:
        (y, x, metric int32 (h, w)) over its box widened by margin / 256 of its radii, or None.
    """
    rx, ry = max(rx, 1), max(ry, 1)
    ex, ey = rx + rx * margin // 256, ry + ry * margin // 256
    box = canvas.clip(cx - ex, cy - ey, cx + ex + 1, cy + ey + 1)
    if box is None:
        return None
    x0, y0, x1, y1 = box
    dx = (np.arange(x0, x1, dtype=np.int64) - cx) ** 2 * 4096 // (rx * rx)
    dy = (np.arange(y0, y1, dtype=np.int64) - cy) ** 2 * 4096 // (ry * ry)
    return y0, x0, (dx[None, :] + dy[:, None]).astype(np.int32)


def ellipse(
    canvas: Canvas,
    cx: int,
    cy: int,
    rx: int,
    ry: int,
    colour: Colour | None,
    label: int | None = None,
    rank: int | None = None,
    hole: int = 0,
    shadow: int = 0,
) -> None:
    """Fill an ellipse; `hole` / 64 of its radii stay open, `shadow` / 256 darkens instead."""
    found = ellipse_metric(canvas, cx, cy, rx, ry)
    if found is None:
        return
    y, x, metric = found
    mask = metric <= 4096
    if hole:
        mask &= metric >= hole * hole
    if shadow:
        canvas.darken(y, x, mask, shadow)
    else:
        canvas.put(y, x, mask, colour, label, rank)


def limb(a: Point, b: Point, width: int) -> Sequence[Point]:
    """Corners of a bar of a width in pixels between two points."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = max(isqrt(dx * dx + dy * dy), 1)
    half = max(width, 1)
    ox, oy = -dy * half // (2 * length), dx * half // (2 * length)
    if ox == 0 and oy == 0:
        return [a, b, (b[0] + 1, b[1]), (a[0] + 1, a[1])]
    return [
        (a[0] + ox, a[1] + oy),
        (b[0] + ox, b[1] + oy),
        (b[0] - ox, b[1] - oy),
        (a[0] - ox, a[1] - oy),
    ]


def inside(quad: Sequence[Point], points: Sequence[Point]) -> Sequence[Point]:
    """Map points of the unit square (in 1/64) into a quad by bilinear interpolation.

    Args:
        quad: corners bottom-left, bottom-right, top-right, top-left.
        points: (u, v) with u to the right and v upwards, 0..64.
    """
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = quad
    mapped = []
    for u, v in points:
        wa, wb, wc, wd = (64 - u) * (64 - v), u * (64 - v), u * v, (64 - u) * v
        mapped.append(
            (
                (ax * wa + bx * wb + cx * wc + dx * wd) >> 12,
                (ay * wa + by * wb + cy * wc + dy * wd) >> 12,
            )
        )
    return mapped


def box_in(quad: Sequence[Point], u0: int, v0: int, u1: int, v1: int) -> Sequence[Point]:
    """The part u0..u1, v0..v1 (in 1/64) of a quad, see `inside`."""
    return inside(quad, [(u0, v0), (u1, v0), (u1, v1), (u0, v1)])


def shaded(colour: Colour, share: int) -> Colour:
    """A colour times share / 256."""
    return tuple(c * share >> 8 for c in colour)


def mixed(a: Colour, b: Colour, share: int) -> Colour:
    """`share` / 256 of b in a."""
    return tuple(x + ((y - x) * share >> 8) for x, y in zip(a, b, strict=False))
