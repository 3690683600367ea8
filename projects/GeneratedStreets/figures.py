"""People, two-wheelers and street furniture: flat figures that face the camera."""

from math import sqrt

from .canvas import CIRCLE, COLOURS, SHAPES, Canvas, Colour, Dice, Pen, shaded


class Figure:
    """An upright plane at one distance; (u, v) in cm from where the figure stands, v upwards.

    Args:
        leaf: name of its class.
        x, z: where it stands, cm.
        v: how far above the ground its origin lies.
        mirror: whether u points to the left.
        scale: multiplies its size.
    """

    def __init__(self, canvas: Canvas, leaf: str, x, z, v=0.0, mirror=False, scale=1.0):
        self.pen, self.leaf, self.scale = Pen(canvas, leaf, z, (4, 0)), leaf, scale
        self.x, self.v, self.z, self.sign = x, v, z, -scale if mirror else scale

    def draw(self, variant: int, **colours: Colour) -> None:
        """Draw the parts of a variant of its class in shapes.yaml."""
        colours = COLOURS | colours
        for part, colour, *args in SHAPES["figures"][self.leaf][variant]:
            getattr(self, part)(colours[colour], *args)

    def area(self, colour: Colour, *corners) -> None:
        """Fill a polygon."""
        x, v, z, su, sv = self.x, self.v, self.z, self.sign, self.scale
        self.pen.fill([(x + su * a, v + sv * b, z) for a, b in corners], colour)

    def box(self, colour: Colour, u0: float, v0: float, u1: float, v1: float) -> None:
        """Fill a rectangle."""
        self.area(colour, (u0, v0), (u1, v0), (u1, v1), (u0, v1))

    def disc(self, colour: Colour, u: float, v: float, ru: float, rv: float) -> None:
        """Fill an ellipse."""
        self.area(colour, *(CIRCLE * (ru, rv) + (u, v)).tolist())

    def limb(self, colour: Colour, u0, v0, u1, v1, wide: float, thin: float) -> None:
        """Fill a bar between two points, `wide` at the first and `thin` at the second."""
        du, dv = u1 - u0, v1 - v0
        length = 2 * sqrt(du * du + dv * dv)
        ou, ov = -dv / length, du / length
        self.area(
            colour, (u0 + ou * wide, v0 + ov * wide), (u1 + ou * thin, v1 + ov * thin),
            (u1 - ou * thin, v1 - ov * thin), (u0 - ou * wide, v0 - ov * wide),
        )  # fmt: skip


def draw_pedestrian(canvas: Canvas, x: float, z: float, dice: Dice) -> None:
    """Draw somebody on foot."""
    mirror, scale = dice.chance(50), dice.between(92, 110) / 100
    figure = Figure(canvas, "pedestrian", x, z, mirror=mirror, scale=scale)
    _dressed(figure, dice.between(0, 2), "clothes", "hair", dice)


def draw_two_wheeler(canvas: Canvas, kind: str, x, z, ridden: bool, dice: Dice) -> None:
    """Draw a bicycle or a motorcycle in profile or from behind, perhaps with its rider."""
    mirror, variant = dice.chance(50), dice.pick([0, 0, 1])
    Figure(canvas, kind, x, z, mirror=mirror).draw(variant, paint=dice.colour("paint"))
    if ridden:  # riders like to be seen: nearly all wear bright jackets
        motor = kind == "motorcycle"
        rider = Figure(canvas, "rider", x, z, 88 if motor else 98, mirror)
        helmet = "paint" if motor or dice.chance(70) else "hair"
        _dressed(rider, variant, "bright" if dice.chance(92) else "clothes", helmet, dice)


def _dressed(figure: Figure, variant: int, top: str, hair: str, dice: Dice) -> None:
    top, legs = dice.colour(top), shaded(dice.colour("clothes"), 0.72)
    figure.draw(
        variant, top=top, sleeve=shaded(top, 0.84), legs=legs, trousers=shaded(legs, 0.8),
        skin=dice.colour("skin"), hair=dice.colour(hair), bag=shaded(dice.colour("clothes"), 0.8),
    )  # fmt: skip


def draw_pole(canvas: Canvas, kind: str, x: float, z: float, side: int, dice: Dice) -> None:
    """Draw a street lamp (kind "pole"), a "traffic_light" or a "traffic_sign" on its pole.

    Args:
        side: -1 on the left of the street, 1 on its right; arms reach over the road.
    """
    pole, grey, thick = Figure(canvas, "pole", x, z, 0, side > 0), dice.colour("mast"), 13
    over_road = kind == "traffic_light" and dice.chance(35)
    plates = (1 + dice.chance(30)) if kind == "traffic_sign" else 0
    lamp, height = kind == "pole" or over_road, dice.between(235, 310)
    top = dice.between(540, 660) if lamp else height + 88 * max(plates - 1, 0)
    arm = 0 if not lamp else 320 if over_road else dice.between(110, 190)
    pole.box(shaded(grey, 1.15), -thick, 0, thick, top)
    pole.box(shaded(grey, 0.8), 1, 0, thick, top)
    pole.box(grey, -thick - 5, 0, thick + 5, 28)
    if lamp:
        pole.limb(grey, 0, top - 10, arm, top + 12, 15, 13)
    if kind == "pole":
        pole.area(shaded(grey, 0.9), (arm - 24, top), (arm + 50, top + 4), (arm + 44, top + 26),
                  (arm - 24, top + 24))  # fmt: skip
    elif kind == "traffic_light":
        u, v = (300, top - 70) if over_road else (0, height)
        lit, lamps = dice.between(0, 2), ([244, 48, 36], [252, 184, 40], [56, 222, 112])
        shown = {f"lamp{k}": shaded(c, 1 if k == lit else 0.3) for k, c in enumerate(lamps)}
        Figure(canvas, kind, x - side * u, z, v).draw(0, **shown)
    for k in range(plates):
        variant = dice.between(0, len(SHAPES["figures"][kind]) - 1)
        Figure(canvas, kind, x, z, height + 88 * k).draw(variant)
