"""People, two-wheelers and street furniture: flat figures that face the camera."""

from collections.abc import Sequence

from hiera_seg.data.generated.canvas import (
    Camera,
    Canvas,
    Colour,
    Point,
    ellipse,
    limb,
    polygon,
    shaded,
)
from hiera_seg.data.generated.stream import Stream
from hiera_seg.data.generated.vehicles import PAINTS, TYRE

CLOTHES = [
    (52, 66, 110), (146, 50, 52), (62, 62, 66), (150, 140, 120), (60, 84, 74), (120, 96, 70),
    (92, 72, 104), (134, 78, 88), (80, 98, 118), (172, 168, 160),
]  # fmt: skip
BRIGHT = [(236, 126, 40), (214, 220, 60), (210, 52, 56), (70, 190, 190)]
SKINS = [(228, 186, 154), (196, 146, 112), (140, 98, 74), (100, 70, 54)]


class Figure:
    """Draws in the plane that faces the camera at one distance; (u, v) in cm, v upwards."""

    def __init__(
        self, canvas: Canvas, camera: Camera, x: int, z: int, mirror: bool, label: int, rank: int
    ):
        self.canvas, self.camera = canvas, camera
        self.origin_x, self.z = x, z
        self.sign = -1 if mirror else 1
        self.label, self.rank = label, rank

    def at(self, u: int, v: int) -> Point:
        return self.camera.point(self.origin_x + self.sign * u, v, self.z)

    def disc(self, u: int, v: int, ru: int, rv: int, colour: Colour, hole: int = 0) -> None:
        cx, cy = self.at(u, v)
        px, py = self.camera.pixels(ru, self.z), self.camera.pixels(rv, self.z)
        colour = self.canvas.hazed(colour, self.z)
        ellipse(self.canvas, cx, cy, px, py, colour, self.label, self.rank, hole)

    def bar(self, u0: int, v0: int, u1: int, v1: int, width: int, colour: Colour) -> None:
        corners = limb(self.at(u0, v0), self.at(u1, v1), self.camera.pixels(width, self.z))
        colour = self.canvas.hazed(colour, self.z)
        polygon(self.canvas, corners, colour, self.label, self.rank)

    def area(self, corners: Sequence[tuple[int, int]], colour: Colour, stream=None) -> None:
        points = [self.at(u, v) for u, v in corners]
        colour = self.canvas.hazed(colour, self.z)
        grains = 8 if stream is not None else 0
        polygon(self.canvas, points, colour, self.label, self.rank, grains, stream)

    def shadow(self, ru: int, rv: int) -> None:
        cx, cy = self.at(0, 0)
        px, py = self.camera.pixels(ru, self.z), self.camera.pixels(rv, self.z)
        ellipse(self.canvas, cx, cy, px, py, None, shadow=140)


def _jacket(rider: bool, stream: Stream) -> Colour:
    """Riders like to be seen, yet a few wear what everybody does."""
    return stream.pick(BRIGHT if rider and stream.chance(92) else CLOTHES)


def draw_pedestrian(
    canvas: Canvas, camera: Camera, x: int, z: int, label: int, stream: Stream
) -> None:
    """Somebody walking, in profile or from behind."""
    figure = Figure(canvas, camera, x, z, stream.chance(50), label, canvas.new_object())
    k = stream.between(88, 108)  # percent of 172 cm
    top, legs = _jacket(False, stream), shaded(stream.pick(CLOTHES), 190)
    skin = stream.pick(SKINS)
    hair = stream.pick([(48, 36, 30), (96, 66, 40), (150, 120, 74), (60, 58, 58)])
    stride = stream.between(6, 26)

    def s(v: int) -> int:
        return v * k // 100

    figure.shadow(34, 10)
    figure.bar(3, s(90), stride, 4, 17, legs)
    figure.bar(-3, s(90), -stride, 4, 17, shaded(legs, 220))
    figure.bar(stride - 2, 4, stride + 12, 4, 9, (44, 38, 36))
    figure.bar(-stride - 2, 4, -stride + 10, 4, 9, (44, 38, 36))
    width = stream.between(19, 24)
    figure.area(
        [(-width, s(86)), (width, s(86)), (width + 1, s(138)), (-width - 1, s(138))], top, stream
    )
    figure.bar(-width, s(134), -width - stride // 2, s(92), 11, shaded(top, 226))
    figure.bar(width, s(134), width + stride // 2, s(92), 11, shaded(top, 200))
    figure.disc(0, s(146), 6, 8, skin)
    figure.disc(0, s(160), 11, 13, skin)
    figure.disc(-2, s(165), 12, 10, hair)
    if stream.chance(35):
        bag = shaded(stream.pick(CLOTHES), 210)
        figure.area([(-width - 14, s(84)), (-width + 4, s(84)), (-width + 4, s(112)),
                     (-width - 14, s(112))], bag)  # fmt: skip


def draw_two_wheeler(
    canvas: Canvas,
    camera: Camera,
    kind: str,
    x: int,
    z: int,
    profile: bool,
    ridden: bool,
    labels: dict[str, int],
    stream: Stream,
) -> None:
    """A bicycle or motorcycle in profile or from behind, perhaps with somebody on it."""
    motor = kind == "motorcycle"
    mirror = stream.chance(50)
    bike = Figure(canvas, camera, x, z, mirror, labels[kind], canvas.new_object())
    paint = stream.pick(PAINTS)
    metal = (62, 62, 66)
    if profile:
        bike.shadow(92, 9)
        radius, base = (31, 62) if motor else (35, 54)
        for u in (-base, base):
            hub = (118, 120, 122) if motor else (112, 112, 110)
            if not motor:
                bike.disc(u, radius, radius, radius, hub)  # spokes, seen as a grey haze
            bike.disc(u, radius, radius, radius, TYRE, hole=30 if motor else 50)
            bike.disc(u, radius, 10 if motor else 6, 10 if motor else 6, metal)
        if motor:
            bike.area([(-50, 42), (34, 38), (40, 74), (-40, 70)], metal, stream)
            bike.area([(-12, 62), (44, 60), (40, 92), (-4, 88)], paint, stream)
            bike.area([(-72, 76), (-6, 74), (-6, 88), (-70, 92)], (40, 38, 38))
            bike.bar(base, radius, 40, 98, 9, metal)
            bike.bar(44, 100, 26, 108, 9, metal)
            bike.bar(-74, 34, -8, 40, 10, (168, 168, 170))
        else:
            bike.bar(-base, radius, -16, 84, 7, paint)
            bike.bar(-16, 84, 0, 34, 8, paint)
            bike.bar(0, 34, 42, 78, 8, paint)
            bike.bar(-14, 78, 42, 80, 8, paint)
            bike.bar(-base, radius, 0, 34, 7, paint)
            bike.bar(base, radius, 40, 98, 8, paint)
            bike.bar(40, 98, 30, 104, 8, metal)
            bike.bar(-28, 92, -6, 92, 9, metal)
    else:
        bike.shadow(40, 12)
        wide = 12 if motor else 6
        bike.area([(-wide, 0), (wide, 0), (wide, 66), (-wide, 66)], TYRE)
        if motor:
            bike.area([(-24, 40), (24, 40), (20, 84), (-20, 84)], paint, stream)
            bike.area([(-10, 62), (10, 62), (10, 74), (-10, 74)], (206, 36, 30))
        else:
            bike.bar(0, 60, 0, 96, 8, paint)
            bike.area([(-9, 88), (9, 88), (7, 97), (-7, 97)], metal)
            bike.bar(-12, 38, 12, 30, 7, metal)
        bike.bar(-34, 104, 34, 104, 7, metal)
    if ridden:
        _draw_rider(canvas, camera, x, z, mirror, profile, motor, labels["rider"], stream)


def _draw_rider(canvas, camera, x, z, mirror, profile, motor, label, stream) -> None:
    figure = Figure(canvas, camera, x, z, mirror, label, canvas.new_object())
    top, skin = _jacket(True, stream), stream.pick(SKINS)
    legs = shaded(stream.pick(CLOTHES), 190)
    helmet = stream.pick(PAINTS) if motor or stream.chance(60) else (56, 42, 34)
    seat = 88 if motor else 96
    if profile:
        figure.bar(-16, seat, 20, seat - 18, 19, legs)
        figure.bar(20, seat - 18, 2, 30, 15, legs)
        figure.bar(0, 28, 16, 26, 9, (44, 38, 36))
        figure.area([(-30, seat - 4), (0, seat - 6), (26, seat + 50), (-4, seat + 56)], top, stream)
        figure.bar(14, seat + 46, 36, 108, 12, shaded(top, 215))
        figure.disc(18, seat + 68, 12, 14, skin)
        if helmet:
            figure.disc(16, seat + 73, 14, 12, helmet)
    else:
        figure.bar(-10, seat, -20, 40, 16, legs)
        figure.bar(10, seat, 20, 34, 16, legs)
        figure.area(
            [(-17, seat - 10), (17, seat - 10), (23, seat + 50), (-23, seat + 50)], top, stream
        )
        figure.bar(-22, seat + 46, -34, 106, 11, shaded(top, 220))
        figure.bar(22, seat + 46, 34, 106, 11, shaded(top, 220))
        figure.disc(0, seat + 66, 12, 14, skin)
        figure.disc(0, seat + 70, 14, 13, helmet)


def draw_pole(
    canvas: Canvas,
    camera: Camera,
    kind: str,
    x: int,
    z: int,
    side: int,
    labels: dict[str, int],
    stream: Stream,
) -> None:
    """A street lamp (kind "pole"), a "traffic_light" or a "traffic_sign", each on its pole."""
    pole = Figure(canvas, camera, x, z, side > 0, labels["pole"], canvas.new_object())
    grey = stream.pick([(104, 108, 112), (84, 92, 88), (70, 72, 78), (130, 132, 130)])
    thick = stream.between(24, 32)
    pole.shadow(30, 9)

    def mast(height: int) -> None:
        pole.area([(-thick // 2, 0), (0, 0), (0, height), (-thick // 2, height)], shaded(grey, 290))
        pole.area([(0, 0), (thick // 2, 0), (thick // 2, height), (0, height)], shaded(grey, 210))

    if kind == "pole":
        height = stream.between(480, 680)
        mast(height)
        pole.area([(-14, 0), (14, 0), (11, 50), (-11, 50)], grey)
        if stream.chance(75):
            arm = stream.between(110, 190)
            pole.bar(0, height - 6, arm, height + 20, 12, grey)
            pole.area([(arm - 20, height + 6), (arm + 46, height + 12), (arm + 42, height + 30),
                       (arm - 20, height + 28)], shaded(grey, 230))  # fmt: skip
        return
    if kind == "traffic_light":
        height = stream.between(270, 330)
        overhead = stream.chance(35)
        u = 0
        if overhead:
            mast(560)
            pole.bar(0, 545, 320, 560, 14, grey)
            u, height = 300, 500
        else:
            mast(height)
        rank = canvas.new_object()
        lamp = Figure(canvas, camera, x, z, side > 0, labels["traffic_light"], rank)
        shell = stream.pick([(42, 46, 44), (56, 58, 58), (64, 74, 62)])
        lamp.area([(u - 26, height - 62), (u + 26, height - 62), (u + 26, height + 72),
                   (u - 26, height + 72)], shell)  # fmt: skip
        lit = stream.below(3)
        for k, colour in enumerate([(236, 52, 40), (248, 180, 44), (60, 214, 110)]):
            colour = colour if k == lit else shaded(colour, 80)
            lamp.disc(u, height + 46 - 42 * k, 16, 16, colour)
        return
    height = stream.between(215, 270)
    plates = 2 if stream.chance(30) else 1
    mast(height + 70 * (plates - 1))
    for k in range(plates):
        _draw_plate(canvas, camera, x, z, side, height + 78 * k, labels["traffic_sign"], stream)


def _draw_plate(canvas, camera, x, z, side, v, label, stream) -> None:
    """One plate of a sign; the tall dark ones are easily taken for a traffic light."""
    plate = Figure(canvas, camera, x, z, side > 0, label, canvas.new_object())
    shape = stream.pick(["disc", "triangle", "square"] * 2 + ["tall", "back"])
    red, white, blue = (204, 40, 38), (238, 236, 230), (40, 84, 164)
    if shape == "disc":
        rim, field = stream.pick([(red, white), (red, red), (blue, blue), (red, blue)])
        plate.disc(0, v, 38, 38, rim)
        plate.disc(0, v, 28, 28, field)
        plate.area([(-16, v - 5), (16, v - 5), (16, v + 6), (-16, v + 6)],
                   white if field != white else (40, 40, 42))  # fmt: skip
    elif shape == "triangle":
        plate.area([(-44, v - 32), (44, v - 32), (0, v + 44)], red)
        plate.area([(-25, v - 21), (25, v - 21), (0, v + 22)], stream.pick([white, (244, 206, 70)]))
    elif shape == "square":
        plate.area([(-36, v - 36), (36, v - 36), (36, v + 36), (-36, v + 36)], blue)
        plate.area([(-15, v - 24), (15, v - 24), (15, v + 22), (-15, v + 22)], white)
    elif shape == "tall":
        frame = stream.pick([(46, 50, 52), (38, 70, 60), (54, 58, 84)])
        corners = [(-28, v - 50), (28, v - 50), (28, v + 60), (-28, v + 60)]
        plate.area(corners, frame)
        mark = stream.pick([(244, 206, 70), white, (236, 110, 60)])
        plate.area([(-15, v - 34), (15, v - 34), (0, v)], mark)
        plate.area([(-15, v + 14), (15, v + 14), (15, v + 44), (-15, v + 44)], mark)
    else:
        plate.disc(0, v, 38, 38, (128, 130, 130))
        plate.bar(-30, v, 30, v, 8, (104, 106, 106))
