"""Project a street's surfaces into an image and fill them, far things first.

World units are centimetres: x to the right, y up, z away from the camera, which looks along z.

A scene has the same pixels on every machine: floating-point numbers only meet +, -, *, / and square
roots, which IEEE 754 rounds exactly, and OpenCV fills, resizes and blurs with integers.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml

from hiera_seg.data.opencv import quiet_opencv

cv2 = quiet_opencv("drawing street scenes")

Colour = Sequence[int]
Point = tuple[float, float, float]

SHAPES = yaml.safe_load(Path(__file__).with_name("shapes.yaml").read_text(encoding="utf-8"))
COLOURS: dict[str, Colour] = SHAPES["colours"]
SUBPIXEL = 4  # bits of a coordinate behind the point
VOID = 255
RIM = 128  # the void rim is one pixel wide per this many pixels of height
SCALE = 2  # scenes are painted this many times larger and averaged: smooth edges
GROUND = 4  # the first objects, sky, road, sidewalk and grass, have no rim between them
NEAR = 40  # points closer than this many centimetres are projected as if they were there
_QUARTER = [(1024, 0), (946, 392), (724, 724), (392, 946)]  # of a circle with radius 1024
_HALF = _QUARTER + [(-y, x) for x, y in _QUARTER]
NOISE = np.frombuffer(np.random.RandomState(0).bytes(1 << 16), np.uint8) / 128 - 1
CIRCLE = np.array(_HALF + [(-x, -y) for x, y in _HALF]) / 1024


class Dice:
    """Random choices that depend on the keys, some integers, alone.

    ``Random.random`` is the method whose stream Python promises to keep in every version.
    """

    def __init__(self, *keys: int):
        self.roll = random.Random(":".join(str(int(key)) for key in keys)).random

    def between(self, low: int, high: int) -> int:
        """Return an integer in [low, high], both ends included."""
        return low + int(self.roll() * (high - low + 1))

    def chance(self, percent: int) -> bool:
        """Return True in `percent` of 100 calls."""
        return self.roll() * 100 < percent

    def pick(self, options: Sequence[Any]) -> Any:
        """Return one of the options, each as likely."""
        return options[int(self.roll() * len(options))]

    def colour(self, palette: str) -> Colour:
        """Return a colour of a palette of shapes.yaml."""
        return self.pick(SHAPES["palettes"][palette])

    def noise(self, *shape: int) -> np.ndarray:
        """Return an array of numbers in [-1, 1), from a common pool."""
        start, size = self.between(0, 1 << 15), int(np.prod(shape))
        return NOISE[start : start + size].reshape(shape)

    def fork(self) -> "Dice":
        """Return dice of their own for a part that is drawn later, in another order."""
        return Dice(self.between(0, 1 << 40))


def smooth_noise(height: int, width: int, cell: tuple[int, int], seed: int) -> np.ndarray:
    """Return noise in blobs of `cell` pixels: int16 (height, width) within -128..127."""
    rows, columns = height // cell[0] + 2, width // cell[1] + 2
    noise = np.random.RandomState(seed).bytes(rows * columns)
    noise = np.frombuffer(noise, np.uint8).reshape(rows, columns)
    if cell != (1, 1):
        size = columns * cell[1], rows * cell[0]
        noise = cv2.resize(noise, size, interpolation=cv2.INTER_LINEAR_EXACT)
    return noise[:height, :width].astype(np.int16) - 128


class Light(SimpleNamespace):
    """The time of day, with the keys of `lights` in shapes.yaml."""

    def on(self, nx: float, ny: float, nz: float) -> float:
        """Return the brightness of a surface with this unit normal."""
        return self.ambient + max(nx * self.sun[0] + ny * self.sun[1] + nz * self.sun[2], 0.0)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with a level horizon; lengths in pixels, its height in cm."""

    focal: int
    centre: int  # column of the vanishing point
    horizon: int  # its row
    height: int

    def point(self, x: float, y: float, z: float) -> tuple[int, int]:
        """Return column and row of a point, with SUBPIXEL bits behind the point."""
        scale = self.focal / max(z, NEAR)
        column, row = self.centre + x * scale, self.horizon + (self.height - y) * scale
        return int(column * (1 << SUBPIXEL)), int(row * (1 << SUBPIXEL))

    def points(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return `point` of arrays of one shape: int32 (..., 2)."""
        scale, found = self.focal / np.maximum(z, NEAR), np.empty((*x.shape, 2), np.int32)
        found[..., 0] = (self.centre + x * scale) * (1 << SUBPIXEL)
        found[..., 1] = (self.horizon + (self.height - y) * scale) * (1 << SUBPIXEL)
        return found


class Canvas:
    """The image being painted.

    Args:
        reach: distance at which the haze hides half of a colour, cm.
        ids: {leaf name: label}.

    Attributes:
        pixels: int16 (H, W, 4): red, green, blue, and the number of the object that owns the pixel.
            Later objects are nearer.
        labels: of the objects, by number.
        grains: of the objects, by number: amplitudes of fine and coarse texture in grey values.
    """

    def __init__(self, height, width, camera: Camera, light: Light, reach: int, ids: dict):
        self.pixels = np.zeros((height, width, 4), np.int16)
        self.camera, self.light, self.reach, self.ids = camera, light, reach, ids
        self.haze = mixed(light.horizon, (200, 206, 212), 0.35)
        self.labels: list[int] = []
        self.grains: list[tuple[int, int]] = []
        self.shadows: list[tuple[int, list]] = []

    def finish(self, dice: Dice) -> tuple[np.ndarray, np.ndarray]:
        """Return the image, uint8 (H / 2, W / 2, 3), and its labels, uint8 (H / 2, W / 2)."""
        owner = np.ascontiguousarray(self.pixels[1::SCALE, 1::SCALE, 3])
        return self._image(owner, dice), self._label_map(owner)

    def _image(self, owner: np.ndarray, dice: Dice) -> np.ndarray:
        """Average to the final size; add texture, shadows, haze, the colour of the light, noise."""
        (h, w), seed, camera = owner.shape, dice.between(0, 1 << 30), self.camera
        fine, coarse = np.array(self.grains, np.int16).T
        cell = max(h // 48, 1)
        grain = smooth_noise(h, w, (1, 1), seed) * (fine + 2)[owner]
        grain += smooth_noise(h, w, (cell, 2 * cell), seed + 1) * coarse[owner]
        grain >>= 7

        shade = np.zeros((h, w), np.uint8)
        for depth, corners in sorted(self.shadows, key=lambda shadow: shadow[0]):
            polygon = np.array([camera.point(x, 0, z) for x, z in corners], np.int32)
            cv2.fillPoly(shade, [polygon // SCALE], depth, shift=SUBPIXEL)
        on_ground = (owner > 0) & (owner < GROUND)
        lit = 128 - (cv2.GaussianBlur(shade, (0, 0), h / 170) >> 1) * on_ground
        below = np.maximum(np.arange(h) * SCALE - camera.horizon, 1)
        z = camera.focal * camera.height // below
        air = (z * 128 // (z + self.reach)).astype(np.int16)[:, None] * on_ground

        image = np.empty((h, w, 3), np.uint8)
        averaged = cv2.split(cv2.resize(self.pixels, (w, h), interpolation=cv2.INTER_AREA))
        for channel, plane in enumerate(averaged[:3]):
            plane = (plane + grain).clip(0, 255) * lit >> 7
            plane += (self.haze[channel] - plane) * air >> 7
            plane = plane.astype(np.int32) * self.light.gain[channel] >> 8
            image[:, :, channel] = plane.clip(0, 255)
        return image

    def _label_map(self, owner: np.ndarray) -> np.ndarray:
        """The labels with a void rim, on the far side of each edge: what is in front is whole."""
        labels, width = np.array(self.labels, np.uint8), max(len(owner) // RIM, 1)
        cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
        grown = cv2.dilate(owner, cross, iterations=width)
        rim = (grown >= GROUND) & (labels[grown] != labels[owner])
        framed, inner = np.full(owner.shape, VOID, np.uint8), np.s_[width:-width, width:-width]
        framed[inner] = np.where(rim, VOID, labels[owner])[inner]
        return framed


class Pen:
    """Fills the surfaces of one object on a canvas.

    Args:
        leaf: name of the object's class.
        z: its distance, for the haze; 0 for no haze.
        grain: amplitudes of its fine and coarse texture in grey values.
    """

    def __init__(self, canvas: Canvas, leaf: str, z: float, grain: tuple[int, int] = (5, 0)):
        self.canvas, self.camera, self.light = canvas, canvas.camera, canvas.light
        self._owner = len(canvas.labels)
        canvas.labels.append(canvas.ids[leaf])
        canvas.grains.append(grain)
        air = max(z, 0) / (max(z, 0) + canvas.reach)
        self._clear, self._haze = 1 - air, [h * air for h in canvas.haze]

    def fill(self, points: Iterable[Point], colour: Colour, light: float = 1.0) -> None:
        """Fill a polygon in space."""
        self.flat([np.array([self.camera.point(*p) for p in points], np.int32)], colour, light)

    def flat(self, polygons: list[np.ndarray], colour: Colour, light: float = 1.0) -> None:
        """Fill polygons, int32 (n, 2), that are projected already and do not overlap."""
        (r, g, b), (x, y, z), share = colour, self._haze, light * self._clear
        ink = int(r * share + x), int(g * share + y), int(b * share + z), self._owner
        cv2.fillPoly(self.canvas.pixels, polygons, ink, shift=SUBPIXEL)


class Plane:
    """A plane with coordinates (u, v) in cm: u = v = 0 at `origin`, axes along `u` and `v`."""

    def __init__(self, pen: Pen, origin: Point, u: Point, v: Point = (0, 1, 0)):
        self.pen, self.origin, self.u, self.v = pen, origin, u, v

    def project(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return where points lie in the image: int32 (..., 2)."""
        place = (o + u * a + v * b for o, a, b in zip(self.origin, self.u, self.v, strict=True))
        return self.pen.camera.points(*place)

    def rects(self, u0, v0, u1, v1, colour: Colour, light: float = 1.0) -> None:
        """Fill rectangles that do not overlap; the corners are numbers or arrays."""
        shape = np.broadcast(u0, v0, u1, v1).shape
        u, v = np.empty((4, *shape)), np.empty((4, *shape))
        u[0], u[1], u[2], u[3] = u0, u1, u1, u0
        v[0], v[1], v[2], v[3] = v0, v0, v1, v1
        if u.size:
            corners = self.project(u.reshape(4, -1).T, v.reshape(4, -1).T)
            self.pen.flat(list(corners), colour, light)

    def leaves(
        self, box, count: int, radius, colour, light, dice: Dice, sun=0.0, oval=False
    ) -> None:
        """Fill `count` clusters of leaves in the box (u0, v0, u1, v1) or the oval in it, in cm."""
        a, b, size, tone = dice.noise(4, count)[:, :, None]
        if oval:
            a = a * np.sqrt(1 - 0.8 * b * b)
        (u0, v0, u1, v1), radius = box, radius * (1 + 0.4 * size)
        ragged = radius * (1 + 0.25 * dice.noise(count, len(CIRCLE)))
        outlines = self.project(
            (u0 + u1 + a * (u1 - u0)) / 2 + ragged * CIRCLE[:, 0],
            (v0 + v1 + b * (v1 - v0)) / 2 + ragged * CIRCLE[:, 1],
        )
        # Dark below and bright above, and brighter on the side of the sun.
        tones = light * (0.92 + 0.2 * b + 0.14 * tone + sun * a)
        for k in np.argsort((b + size / 2)[:, 0], kind="stable"):
            self.pen.flat([outlines[k]], colour, tones[k, 0])


def shaded(colour: Colour, share: float) -> Colour:
    """Return a colour times `share`."""
    return [int(c * share) for c in colour]


def mixed(a: Colour, b: Colour, share: float) -> Colour:
    """Return a colour with `share` of b in a."""
    return [int(x + (y - x) * share) for x, y in zip(a, b, strict=True)]
