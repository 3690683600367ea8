"""Cars, vans, trucks and buses: side profiles drawn out to the vehicle's width."""

from itertools import pairwise
from math import sqrt

from .canvas import CIRCLE, COLOURS, SHAPES, Canvas, Colour, Dice, Pen, Point, mixed, shaded

# Where the direction from nose to tail points, (x, z), by what the camera sees of the vehicle.
VIEWS = {"rear": (0, -1), "front": (0, 1), "left": (1, 0), "right": (-1, 0)}


class Vehicle:
    """A vehicle on the road.

    Args:
        kind: leaf name.
        x: of its middle as seen by the camera, cm.
        z: distance of its nearest point.
        view: which side the camera sees, a key of VIEWS.
        dice: decide its colours and its size.
    """

    def __init__(self, kind: str, x: float, z: float, view: str, dice: Dice):
        self.kind, self.shape, self.along = kind, SHAPES["vehicles"][kind], VIEWS[view]
        width, length, height = self.shape["size"]
        self.stretch, self.rise = dice.between(94, 107) / 100, dice.between(95, 105) / 100
        self.length, self.half, self.height = length * self.stretch, width / 2, height
        self.size = (self.length, width) if self.along[0] else (width, self.length)  # x, z
        self.middle = (x, z + self.size[1] / 2)
        paint = shaded(dice.colour("paint"), dice.between(88, 108) / 100)
        if kind in SHAPES["palettes"] and dice.chance(85):
            paint = dice.colour(kind)
        second = dice.colour("load" if kind == "truck" else "paint")
        self.colours = COLOURS | {"paint": paint, "seam": shaded(paint, 0.7), "second": second}
        self.parts = list(self.shape["parts"])
        if "variants" in self.shape:
            self.parts += dice.pick(self.shape["variants"])
        for half in self.shape.get("halves", ())[:: -1 if self.along[1] >= 0 else 1]:
            self.parts += half

    def draw(self, canvas: Canvas) -> None:
        """Draw it on a canvas."""
        self.pen = Pen(canvas, self.kind, self.middle[1] - self.size[1] / 2, grain=(3, 2))
        self.colours["glass"] = mixed(COLOURS["glass"], canvas.haze, 0.14)
        for part, colour, *args in self.parts:
            getattr(self, f"_{part}")(self.colours[colour], *args)

    # Positions: s cm behind the nose, t to the side in half widths, y above the ground.

    def _at(self, s: float, t: float, y: float) -> Point:
        waist, taper = self.shape["narrows"]
        t *= self.half - taper * max(y - waist, 0) / (self.height - waist)
        s, (dx, dz), (x, z) = s * self.stretch - self.length / 2, self.along, self.middle
        return x + s * dx - t * dz, y * self.rise, z + s * dz + t * dx

    def _face(self, corners: list[Point], normal: Point, colour: Colour) -> None:
        """Fill a polygon of (s, t, y) if its front side is seen; normal: in the same axes."""
        (s, t, y), (dx, dz), size = normal, self.along, sqrt(sum(n * n for n in normal))
        nx, ny, nz = (s * dx - t * dz) / size, y / size, (s * dz + t * dx) / size
        points = [self._at(*corner) for corner in corners]
        x, y, z = points[0]
        if ny * (self.pen.camera.height - y) > nx * x + nz * z:
            self.pen.fill(points, colour, self.pen.light.on(nx, ny, nz))

    def _across(self, colour: Colour, a, b, t0: float = -1, t1: float = 1) -> None:
        corners = [(a[0], t0, a[1]), (a[0], t1, a[1]), (b[0], t1, b[1]), (b[0], t0, b[1])]
        self._face(corners, (a[1] - b[1], 0, b[0] - a[0]), colour)

    def _flank(self, colour: Colour, *corners) -> None:
        for t in (-1, 1):
            self._face([(s, t, y) for s, y in corners], (0, t, 0), colour)

    def _body(self, colour: Colour, *profile) -> None:
        edges, sign = pairwise(profile), -1 if self.along[1] >= 0 else 1
        for a, b in sorted(edges, key=lambda edge: sign * (edge[0][0] + edge[1][0])):
            self._across(colour, a, b)  # far ones first
        self._flank(colour, *profile)

    def _wheels(self, hub: Colour, radius: float, *places: float) -> None:
        for s in places:
            for r, colour in ((radius + 7, COLOURS["black"]), (radius, COLOURS["tyre"]),
                              (radius * 0.55, hub)):  # fmt: skip
                circle = [(s + r * u, max(radius + r * v, 0)) for u, v in CIRCLE.tolist()]
                self._flank(colour, *circle)

    def _ends(self, paint: Colour, length: float, low: float, high: float) -> None:
        """Lamps, number plate, bumper and the ends of the tyres, at nose and tail."""
        for s, lamp in ((0, "lamp"), (length, "tail_lamp")):
            for y0, y1, t0, t1, colour in (
                (low, high, -0.94, -0.68, COLOURS[lamp]), (low, high, 0.68, 0.94, COLOURS[lamp]),
                (0, 34, -0.9, -0.62, COLOURS["tyre"]), (0, 34, 0.62, 0.9, COLOURS["tyre"]),
                (low - 22, low - 10, -1, 1, shaded(paint, 0.62)),
                (low - 8, low + 5, -0.26, 0.26, COLOURS["plate"]),
            ):  # fmt: skip
                self._across(colour, (s, y1 if s else y0), (s, y0 if s else y1), t0, t1)
