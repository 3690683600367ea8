"""Cars, vans, trucks and buses, built of boxes in perspective."""

from collections.abc import Sequence
from dataclasses import dataclass

from hiera_seg.data.generated.canvas import (
    Camera,
    Canvas,
    Colour,
    Point,
    box_in,
    inside,
    mixed,
    polygon,
    polygon_mask,
    shaded,
)
from hiera_seg.data.generated.stream import Stream
from hiera_seg.data.generated.surroundings import Light

Quad = Sequence[Point]

PAINTS = [
    (176, 44, 40), (44, 74, 140), (168, 172, 176), (58, 60, 64), (134, 140, 146), (40, 104, 84),
    (214, 168, 52), (120, 40, 56), (92, 132, 168), (84, 72, 60),
]  # fmt: skip
# Fleets have their colours; the other vehicles of the kind have anybody's.
LIVERIES = {
    "van": [(232, 232, 228), (210, 214, 218), (236, 226, 196)],
    "bus": [(222, 176, 48), (190, 52, 44), (60, 128, 150)],
}
LOADS = [(198, 200, 202), (150, 154, 158), (120, 112, 98), (222, 222, 216)]
TYRE = (34, 34, 38)
OCTAGON = [(64, 32), (55, 55), (32, 64), (9, 55), (0, 32), (9, 9), (32, 0), (55, 9)]


@dataclass
class Faces:
    """The visible faces of a box on the canvas; corners as `inside` wants them."""

    near: Quad
    side: Quad | None
    roof: Quad | None


def box_faces(
    camera: Camera,
    x: tuple[int, int],
    y: tuple[int, int],
    z: tuple[int, int],
    inset: tuple[int, int, int] = (0, 0, 0),
) -> Faces:
    """Project a box whose top is smaller by `inset`: cm at both sides, near end, far end."""
    (x0, x1), (y0, y1), (z0, z1) = x, y, z
    sides, near_end, far_end = inset
    p = camera.point
    top = (x0 + sides, x1 - sides, z0 + near_end, z1 - far_end)
    near = [p(x0, y0, z0), p(x1, y0, z0), p(top[1], y1, top[2]), p(top[0], y1, top[2])]
    side = roof = None
    if x0 > 0:
        side = [p(x0, y0, z1), p(x0, y0, z0), p(top[0], y1, top[2]), p(top[0], y1, top[3])]
    elif x1 < 0:
        side = [p(x1, y0, z0), p(x1, y0, z1), p(top[1], y1, top[3]), p(top[1], y1, top[2])]
    if y1 < camera.height:
        roof = [near[3], near[2], p(top[1], y1, top[3]), p(top[0], y1, top[3])]
    return Faces(near, side, roof)


class Vehicle:
    """A car, van, truck or bus, along the street (seen from an end) or across it (from a side).

    Args:
        kind: leaf name.
        x: middle of the visible face, cm; z: distance of the nearest point.
        view: "rear", "front" (along the street), "left" or "right" (where its nose points).
        look: seed for its paint.
    """

    SIZES = {"car": (182, 420, 146), "van": (198, 500, 214), "truck": (244, 760, 330),
             "bus": (250, 1050, 312)}  # fmt: skip

    def __init__(self, kind: str, x: int, z: int, view: str, look: int):
        stream = Stream(look)
        self.kind, self.view, self.look = kind, view, look
        width, length, height = self.SIZES[kind]
        self.length = length * stream.between(92, 108) // 100
        self.height = height * stream.between(94, 106) // 100
        self.across = view in ("left", "right")
        half = (self.length if self.across else width) // 2
        self.x = (x - half, x + half)
        self.z = (z, z + (width if self.across else self.length))
        self.paint = shaded(stream.pick(PAINTS), stream.between(220, 270))
        if kind in LIVERIES and stream.chance(85):
            self.paint = stream.pick(LIVERIES[kind])
        self.second = shaded(stream.pick(PAINTS), stream.between(220, 270))
        if kind == "truck" and stream.chance(85):
            self.second = stream.pick(LOADS)
        self.stream = stream

    def draw(self, canvas: Canvas, camera: Camera, light: Light, label: int) -> None:
        """Paint it with its shadow on the ground."""
        self.canvas, self.camera, self.label = canvas, camera, label
        self.rank = canvas.new_object()
        self.flank = light.side_shade(1 if self.x[0] > 0 else -1)
        (x0, x1), (z0, z1) = self.x, self.z
        ground = [(x0 - 22, z0 - 26), (x1 + 22, z0 - 26), (x1 + 22, z1), (x0 - 22, z1)]
        found = polygon_mask(canvas, [camera.point(x, 0, z) for x, z in ground])
        if found is not None:
            canvas.darken(*found, 120)
        getattr(self, "_" + self.kind)()

    # The three kinds of strokes below are all that the bodies are made of.

    def _tint(self, colour: Colour, share: int = 256) -> Colour:
        return self.canvas.hazed(shaded(colour, share), self.z[0])

    def _fill(self, quad: Quad | None, colour: Colour, grains: int = 5) -> None:
        if quad is not None:
            polygon(self.canvas, quad, colour, self.label, self.rank, grains, self.stream)

    def _box(self, y0, y1, colour, inset=(0, 0, 0), x=None, z=None) -> Faces:
        faces = box_faces(self.camera, x or self.x, (y0, y1), z or self.z, inset)
        self._fill(faces.roof, self._tint(colour, 285))
        self._fill(faces.side, self._tint(colour, self.flank))
        self._fill(faces.near, self._tint(colour, 232))
        return faces

    def _long_faces(self, faces: Faces) -> list[Quad]:
        """The faces that show the vehicle's flank."""
        face = faces.near if self.across else faces.side
        return [] if face is None else [face]

    def _end_faces(self, faces: Faces) -> list[Quad]:
        """The faces that show its front or rear."""
        face = faces.side if self.across else faces.near
        return [] if face is None else [face]

    def _wheels(self, radius: int, places: Sequence[int]) -> None:
        """Wheels on the flank at `places` (1/64 of its length), tyres below the ends."""
        faces = box_faces(self.camera, self.x, (0, 2 * radius), self.z)
        reach = max(radius * 64 // self.length, 1)
        for flank in self._long_faces(faces):
            for place in places:
                wheel = box_in(flank, place - reach, 0, place + reach, 64)
                self._fill(inside(wheel, OCTAGON), self._tint(TYRE), 0)
                hub = inside(wheel, [(16 + u // 2, 16 + v // 2) for u, v in OCTAGON])
                self._fill(hub, self._tint((148, 150, 152)), 0)
        for end in self._end_faces(faces):
            self._fill(box_in(end, 4, 0, 16, 34), self._tint(TYRE), 0)
            self._fill(box_in(end, 48, 0, 60, 34), self._tint(TYRE), 0)

    def _lights(self, end: Quad, low: int, high: int) -> None:
        rear = self.view == "rear"
        colour = self._tint((206, 36, 30) if rear else (250, 244, 214))
        self._fill(box_in(end, 3, low, 13, high), colour, 0)
        self._fill(box_in(end, 51, low, 61, high), colour, 0)

    def _glass(self) -> Colour:
        return self._tint(mixed((54, 66, 78), self.canvas.haze, 40))

    def _car(self) -> None:
        waist = self.height * 58 // 100
        self._box(18, 32, (30, 30, 34))
        body = self._box(30, waist, self.paint, (4, 6, 6))
        if self.across:
            length = self.x[1] - self.x[0]
            nose, tail = (30, 18) if self.view == "right" else (18, 30)
            cabin_x = (self.x[0] + length * tail // 100, self.x[1] - length * nose // 100)
            cabin_z = (self.z[0] + 8, self.z[1] - 8)
            cabin = self._box(waist, self.height, self.paint, (48, 14, 14), cabin_x, cabin_z)
        else:
            nose = 120 if self.view == "front" else 60
            cabin_z = (self.z[0] + nose, self.z[1] - 100)
            cabin_x = (self.x[0] + 8, self.x[1] - 8)
            cabin = self._box(waist, self.height, self.paint, (18, 45, 45), cabin_x, cabin_z)
        for end in self._end_faces(cabin):
            self._fill(box_in(end, 6, 8, 58, 56), self._glass(), 4)
        for flank in self._long_faces(cabin):
            self._fill(box_in(flank, 5, 8, 30, 54), self._glass(), 4)
            self._fill(box_in(flank, 34, 8, 59, 54), self._glass(), 4)
        for end in self._end_faces(body):
            self._lights(end, 34, 52)
            self._fill(box_in(end, 24, 16, 40, 30), self._tint((226, 224, 206)), 0)
            self._fill(box_in(end, 0, 2, 64, 9), self._tint(self.paint, 150), 0)
        for flank in self._long_faces(body):
            self._fill(box_in(flank, 31, 6, 32, 60), self._tint(self.paint, 150), 0)
        self._wheels(32, (13, 51))

    def _van(self) -> None:
        waist = self.height * 52 // 100
        self._box(18, 34, (30, 30, 34))
        body = self._box(30, waist, self.paint, (2, 4, 4))
        upper = self._box(waist, self.height, self.paint, (14, 22, 16))
        for end in self._end_faces(upper):
            self._fill(box_in(end, 7, 10, 57, 50), self._glass(), 4)
            if self.view == "rear":
                self._fill(box_in(end, 31, 0, 33, 64), self._tint(self.paint, 170), 0)
        for flank in self._long_faces(upper):
            nose = self._nose_first(flank)
            for u0, u1 in ((4, 18), (21, 34)) if nose else ((46, 60), (30, 43)):
                self._fill(box_in(flank, u0, 8, u1, 50), self._glass(), 4)
        for end in self._end_faces(body):
            self._lights(end, 36, 62)
            self._fill(box_in(end, 24, 14, 40, 28), self._tint((226, 224, 206)), 0)
        for flank in self._long_faces(body):
            self._fill(box_in(flank, 0, 28, 64, 31), self._tint(self.paint, 170), 0)
        self._wheels(34, (12, 52))

    def _nose_first(self, flank: Quad) -> bool:
        """Whether the nose is at the left end of the flank as drawn."""
        if self.across:
            return self.view == "left"
        # Left of the camera the near end is drawn first, right of it the far end.
        return (self.x[1] < 0) == (self.view == "front")

    def _bus(self) -> None:
        self._box(22, 40, (30, 30, 34))
        stripe = self.height * 42 // 100
        lower = self._box(36, stripe, self.paint)
        upper = self._box(stripe, self.height, self.paint, (4, 6, 6))
        for flank in self._long_faces(upper):
            self._fill(box_in(flank, 1, 8, 63, 48), self._tint((36, 40, 46)), 0)
            for k in range(7):
                self._fill(box_in(flank, 2 + 9 * k, 11, 9 + 9 * k, 45), self._glass(), 4)
        for flank in self._long_faces(lower):
            self._fill(box_in(flank, 0, 44, 64, 54), self._tint(self.second, self.flank), 0)
            door = (4, 11) if self._nose_first(flank) else (53, 60)
            self._fill(box_in(flank, door[0], 0, door[1], 64), self._glass(), 4)
        for end in self._end_faces(upper):
            low = 2 if self.view != "rear" else 22
            self._fill(box_in(end, 4, low, 60, 48), self._glass(), 4)
            if self.view != "rear":
                self._fill(box_in(end, 14, 51, 50, 60), self._tint((30, 30, 32)), 0)
                self._fill(box_in(end, 18, 53, 42, 58), self._tint((250, 190, 60)), 0)
        for end in self._end_faces(lower):
            self._lights(end, 14, 28)
            self._fill(box_in(end, 18, 8, 46, 30), self._tint(self.paint, 130), 0)
        self._wheels(46, (13, 50))

    def _truck(self) -> None:
        self._box(40, 62, (40, 40, 44))
        cab_length, cab_top = 190, self.height * 80 // 100
        (x0, x1), (z0, z1) = self.x, self.z
        if self.view == "rear":
            parts = [("cab", (x0, x1), (z1 - cab_length, z1)), ("load", (x0, x1), (z0, z1 - 215))]
        elif self.view == "front":
            parts = [("load", (x0, x1), (z0 + 215, z1)), ("cab", (x0, x1), (z0, z0 + cab_length))]
        elif self.view == "left":
            parts = [("load", (x0 + 215, x1), (z0, z1)), ("cab", (x0, x0 + cab_length), (z0, z1))]
        else:
            parts = [("load", (x0, x1 - 215), (z0, z1)), ("cab", (x1 - cab_length, x1), (z0, z1))]
        for part, x, z in parts:
            if part == "load":
                load = self._box(88, self.height, self.second, (0, 0, 0), x, z)
                for flank in self._long_faces(load):
                    self._fill(box_in(flank, 8, 22, 56, 42), self._tint(self.paint, self.flank), 4)
                if self.view == "rear":
                    for end in self._end_faces(load):
                        self._fill(box_in(end, 31, 2, 33, 62), self._tint(self.second, 150), 0)
                        self._fill(box_in(end, 2, 0, 62, 4), self._tint(self.second, 130), 0)
            else:
                cab = self._box(46, cab_top, self.paint, (6, 10, 4), x, z)
                for end in self._end_faces(cab) if self.view != "rear" else []:
                    self._fill(box_in(end, 5, 34, 59, 58), self._glass(), 4)
                    self._fill(box_in(end, 16, 10, 48, 28), self._tint(self.paint, 140), 0)
                    self._lights(end, 6, 14)
                for flank in self._long_faces(cab):
                    self._fill(box_in(flank, 16, 34, 52, 58), self._glass(), 4)
        if self.view == "rear":
            for end in self._end_faces(box_faces(self.camera, self.x, (40, 88), self.z)):
                self._lights(end, 8, 44)
        self._wheels(48, (10, 42, 54) if self.view in ("left", "front") else (10, 22, 54))
