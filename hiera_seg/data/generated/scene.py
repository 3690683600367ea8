"""Street scenes drawn from a seed: the layout, and the one public function `draw_scene`."""

from functools import cache

import numpy as np

from hiera_seg.data.generated.canvas import Camera, Canvas, ellipse, mixed
from hiera_seg.data.generated.layout import Layout
from hiera_seg.data.generated.stream import Stream, hash_grid
from hiera_seg.data.generated.surroundings import Light, Street, draw_ground, draw_sky
from hiera_seg.hierarchy import Hierarchy

VOID = 255
SIZE = (256, 384)  # height, width
RIM = 128  # the void rim is one pixel wide per so many pixels of height
SCALE = 2  # scenes are painted this many times larger and averaged: smooth edges


@cache
def _labels() -> dict[str, int]:
    tree = Hierarchy.load("generated")
    return {name: index for index, name in enumerate(tree.leaf_names)}


def draw_scene(
    seed: int, index: int, size: tuple[int, int] = SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one street scene. The same arguments give the same pixels on any machine.

    Args:
        seed, index: any integers; each pair is a scene of its own.
        size: height and width in pixels, at least 64 x 64.

    Returns:
        image: uint8 (H, W, 3), RGB.
        labels: uint8 (H, W), leaf ids of the tree "generated"; 255 is void (the picture's border,
            a rim around every object, the bonnet of the camera's own car).

    Raises:
        ValueError: the size is smaller than 64 x 64.
    """
    height, width = size
    if height < 64 or width < 64:
        raise ValueError(f"size is {size}: a scene needs at least 64 x 64 pixels")

    # Every part has a stream of its own, so that a change in one leaves the others alone.
    def stream(part: int) -> Stream:
        return Stream(seed, index, part)

    labels = _labels()
    light = _draw_light(stream(1))
    camera = _draw_camera(height * SCALE, width * SCALE, stream(2))
    street = _draw_street(stream(3))
    haze = mixed(light.horizon, (200, 206, 212), 90)
    canvas = Canvas(height * SCALE, width * SCALE, haze, stream(4).pick([9000, 14000, 22000]))

    layout = Layout(canvas, camera, street, light, labels)
    lots, shadows = layout.lots(stream(5))
    draw_sky(canvas, camera, light, labels["sky"], stream(6))
    draw_ground(canvas, camera, street, light, shadows, labels, stream(7))
    layout.draw_backdrop(stream(8))
    things = layout.traffic(stream(9)) + layout.furniture(stream(10)) + layout.people(stream(11))
    for items in (lots, things):
        for _, draw in sorted(items, key=lambda item: -item[0]):
            draw()
    if stream(12).chance(15):
        _draw_bonnet(canvas, camera, stream(13))
    return _finish_image(canvas, light, stream(14)), _finish_labels(canvas)


def _draw_camera(height: int, width: int, stream: Stream) -> Camera:
    return Camera(
        width=width,
        focal=width * stream.between(94, 112) // 100,
        centre=width * stream.between(36, 64) // 100,
        horizon=height * stream.between(42, 56) // 100,
        height=stream.between(145, 190),
    )


def _draw_light(stream: Stream) -> Light:
    side = stream.pick([-1, 1])
    kind = stream.pick(["noon", "noon", "overcast", "evening", "dusk"])
    if kind == "noon":
        zenith, horizon = (74, 126, 204), (188, 212, 236)
        return Light(zenith, horizon, (262, 256, 246), side, 158, stream.between(90, 150), 8)
    if kind == "overcast":
        zenith, horizon = (148, 158, 172), (206, 210, 214)
        return Light(zenith, horizon, (240, 244, 248), 0, 256, stream.between(170, 210), 24)
    if kind == "evening":
        zenith, horizon = (96, 120, 176), (248, 204, 158)
        return Light(zenith, horizon, (268, 240, 208), side, 150, stream.between(90, 160), 40)
    zenith, horizon = (52, 66, 118), (208, 150, 142)
    return Light(zenith, horizon, (196, 190, 216), 0, 256, stream.between(90, 160), 120)


def _draw_street(stream: Stream) -> Street:
    parking = (stream.pick([0, 0, 210]), stream.pick([0, 0, 210]))
    left, right = stream.pick([1, 1, 2]), stream.pick([0, 0, 1])
    lanes = tuple(-165 - 330 * k for k in range(left)) + tuple(165 + 330 * k for k in range(right))
    road = (-165 - 330 * left - parking[0], 165 + 330 * right + parking[1])
    verge = tuple(stream.between(160, 320) if stream.chance(50) else 0 for _ in range(2))
    walk = tuple(stream.between(220, 420) for _ in range(2))
    crossing = (0, 0)
    if stream.chance(45):
        start = stream.between(1000, 2100)
        crossing = (start, start + 700)
    road_tone = stream.between(92, 116)
    walk_tone = road_tone + stream.between(32, 56)
    return Street(
        road, lanes, verge, walk, crossing, road_tone, walk_tone, stream.between(50, 110)
    )  # fmt: skip


def _draw_bonnet(canvas: Canvas, camera: Camera, stream: Stream) -> None:
    """The camera's own car at the bottom: void, like the border."""
    colour = stream.pick([(40, 42, 48), (90, 94, 100), (104, 36, 36), (36, 52, 84)])
    cx, cy = camera.centre, canvas.height + canvas.height * 14 // 100
    rx, ry = canvas.width * 62 // 100, canvas.height * stream.between(20, 26) // 100
    ellipse(canvas, cx, cy, rx, ry, colour, VOID, canvas.new_object())
    ellipse(canvas, cx, cy, rx * 90 // 100, ry * 88 // 100, mixed(colour, (255, 255, 255), 30))


def _finish_image(canvas: Canvas, light: Light, stream: Stream) -> np.ndarray:
    """Average to the final size, tint, add sensor noise."""
    rgb = np.clip(canvas.rgb, 0, 255)  # int16: the sum of four stays below 1024
    image = sum(rgb[:, i::SCALE, j::SCALE] for i in range(SCALE) for j in range(SCALE))
    noise = hash_grid(*image.shape[1:], stream.below(1 << 31))
    noise = (noise & np.uint32(15)).astype(np.int32) + (noise >> np.uint32(28)).astype(np.int32)
    image = image + (noise - 15)  # a triangle of +-15 quarters of a grey value
    gain = np.array(light.gain, dtype=np.int32)[:, None, None]
    image = np.clip(image * gain >> 10, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(image.transpose(1, 2, 0))


def _finish_labels(canvas: Canvas) -> np.ndarray:
    """One label of each SCALE x SCALE pixels, and the void rim.

    The rim lies on the far side of an edge only: the thing in front keeps its full shape.
    """
    label = canvas.label[SCALE - 1 :: SCALE, SCALE - 1 :: SCALE].copy()
    rank = canvas.rank[SCALE - 1 :: SCALE, SCALE - 1 :: SCALE]
    width = max(label.shape[0] // RIM, 1)
    # Let every object grow over what lies behind it, one pixel a step.
    grown_label, grown_rank = label.copy(), rank.copy()
    for _ in range(width):
        before_label, before_rank = grown_label.copy(), grown_rank.copy()
        for here, there in (
            (np.s_[:-1, :], np.s_[1:, :]),
            (np.s_[1:, :], np.s_[:-1, :]),
            (np.s_[:, :-1], np.s_[:, 1:]),
            (np.s_[:, 1:], np.s_[:, :-1]),
        ):
            nearer = before_rank[there] > grown_rank[here]
            np.copyto(grown_label[here], before_label[there], where=nearer)
            np.copyto(grown_rank[here], before_rank[there], where=nearer)
    label[grown_label != label] = VOID
    inner = np.s_[width:-width, width:-width]
    framed = np.full_like(label, VOID)  # the border of the picture
    framed[inner] = label[inner]
    return framed
