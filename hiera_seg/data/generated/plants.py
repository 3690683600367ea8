"""Trees: broadleaf and conifer."""

import numpy as np

from hiera_seg.data.generated.canvas import Camera, Canvas, ellipse, polygon
from hiera_seg.data.generated.stream import TILE, Stream, noise_tile
from hiera_seg.data.generated.surroundings import Light

GREENS = [(78, 102, 44), (66, 94, 48), (88, 108, 50), (60, 88, 54), (94, 100, 44)]
TRUNK = (88, 68, 50)


def draw_tree(
    canvas: Canvas,
    camera: Camera,
    is_conifer: bool,
    x: int,
    z: int,
    height: int,
    light: Light,
    label: int,
    stream: Stream,
) -> None:
    """A tree with its trunk; conifers are of a cooler, darker green."""
    rank = canvas.new_object()
    foot_x, foot_y = camera.point(x, 0, z)
    crown_top = camera.y(height, z)
    trunk_width = camera.pixels(height // 22, z)
    crown_base = height * (12 if is_conifer else 38) // 100
    base_y = camera.y(crown_base, z)
    ellipse(canvas, foot_x, foot_y, trunk_width * 2, max(trunk_width // 2, 1), None, shadow=170)
    trunk = canvas.hazed(TRUNK, z)
    middle = camera.y(height * 6 // 10, z) if not is_conifer else base_y
    corners = [
        (foot_x - trunk_width // 2, foot_y),
        (foot_x + (trunk_width + 1) // 2, foot_y),
        (foot_x + (trunk_width + 2) // 3, middle),
        (foot_x - trunk_width // 3, middle),
    ]
    polygon(canvas, corners, trunk, label, rank, grains=12, stream=stream)
    green = canvas.hazed(stream.pick(GREENS), z)
    sun = light.sun_side or 1
    if is_conifer:
        _conifer_crown(canvas, foot_x, crown_top, base_y, height, green, sun, label, rank, stream)
    else:
        radius = camera.pixels(height * stream.between(26, 34) // 100, z)
        _round_crown(canvas, foot_x, crown_top, base_y, radius, green, sun, label, rank, stream)


def _leaves(shape: tuple[int, int], size: int, stream: Stream) -> np.ndarray:
    """Noise of leaf clusters that scales with the size of the crown; int32."""
    cell = 4
    while cell < 32 and cell * 14 < size:
        cell *= 2
    tile = noise_tile(cell, 3, 5)
    rows = (np.arange(shape[0]) + stream.below(TILE)) & (TILE - 1)
    columns = (np.arange(shape[1]) + stream.below(TILE)) & (TILE - 1)
    return tile[rows[:, None], columns].astype(np.int32)


def _paint_leaves(canvas, y, x, mask, green, tone, label, rank) -> None:
    weights = np.array([210, 256, 150], dtype=np.int32)[:, None, None]
    colour = np.array(green, dtype=np.int32)[:, None, None] + (tone * weights >> 8)
    canvas.put(y, x, mask, colour, label, rank)


def _round_crown(canvas, cx, top, base, radius, green, sun, label, rank, stream) -> None:
    half = max((base - top) // 2, 1)
    cy = top + half
    blobs = [(0, 0, 80)]
    for bx, by in ((-45, 15), (45, 15), (-25, -35), (28, -32), (0, 40)):
        jitter = stream.between(-12, 12)
        blobs.append((bx + jitter, by + stream.between(-10, 10), stream.between(48, 60)))
    box = canvas.clip(cx - radius - 2, top - 2, cx + radius + 3, base + 3)
    if box is None:
        return
    x0, y0, x1, y1 = box
    dx = (np.arange(x0, x1, dtype=np.int32) - cx)[None, :] * 100 // radius  # percent of the radius
    dy = (np.arange(y0, y1, dtype=np.int32) - cy)[:, None] * 100 // half
    leaves = _leaves((y1 - y0, x1 - x0), radius, stream)
    best = np.full(leaves.shape, 1 << 20, dtype=np.int32)
    lift = np.zeros(leaves.shape, dtype=np.int32)
    for bx, by, size in blobs:
        ex, ey = dx - bx, dy - by
        metric = (ex * ex + ey * ey) * 100 // (size * size)
        nearer = metric < best
        best = np.minimum(best, metric)
        lift = np.where(nearer, (ex * sun - ey * 2) * 50 // size, lift)
    mask = best + (leaves >> 1) < 78
    tone = (lift >> 2) + (leaves >> 1) - (np.maximum(dy, -40) >> 3)
    _paint_leaves(canvas, y0, x0, mask, green, tone, label, rank)


def _conifer_crown(canvas, cx, top, base, height, green, sun, label, rank, stream) -> None:
    length = max(base - top, 1)
    widest = max(length * stream.between(22, 30) // 100, 1)
    box = canvas.clip(cx - widest - 2, top, cx + widest + 3, base)
    if box is None:
        return
    x0, y0, x1, y1 = box
    down = (np.arange(y0, y1, dtype=np.int32) - top)[:, None] * 1024 // length  # 0 at the tip
    tiers = stream.between(5, 8)
    within = down * tiers % 1024
    half = widest * (down * 3 // 4 + within * down // 4096 + 20)  # times 1024
    dx = np.arange(x0, x1, dtype=np.int32)[None, :] - cx
    leaves = _leaves((y1 - y0, x1 - x0), length // 2, stream)
    mask = np.abs(dx) * 1024 < half * (256 + leaves) >> 8
    tone = (dx * sun * 36 // widest) + (leaves >> 1) - (within >> 5) + 8
    cool = (green[0] - 40, green[1] - 24, green[2] + 10)
    _paint_leaves(canvas, y0, x0, mask, cool, tone, label, rank)
