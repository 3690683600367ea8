"""What stands along a street: buildings, walls, fences, hedges and trees."""

import numpy as np

from .canvas import COLOURS, Canvas, Dice, Pen, Plane, mixed, shaded


def draw_building(canvas: Canvas, kind: str, side, x, z0, z1, depth, dice: Dice) -> None:
    """Draw a "house" (warm, with a roof) or an "office" (cool, tall, much glass).

    Args:
        side: of the street, -1 left or 1 right; the front lies at x and faces the street.
        z0, z1: where the front begins and ends, cm.
        depth: of the building, cm.
    """
    pen, light = Pen(canvas, kind, z0 * 0.7 + z1 * 0.3, grain=(7, 9)), canvas.light
    storeys, storey = (dice.between(2, 3), 290) if kind == "house" else (dice.between(3, 8), 330)
    height, back = storeys * storey + 60, x + side * depth
    if kind == "house":
        roof, low, eaves = dice.colour("roof"), height - 15, x - side * 35
        ridge, top, hip = x + side * depth / 2, height + dice.between(240, 400), (z1 - z0) / 4
        a, b = (ridge, top, z0 + hip), (ridge, top, z1 - hip)
        pen.fill([(eaves, low, z0), (back, low, z0), a], roof, light.on(0, 0.7, -0.7))
        pen.fill([(eaves, low, z0), (eaves, low, z1), b, a], roof, light.on(-side * 0.7, 0.7, 0))
    wall = shaded(dice.colour(kind), dice.between(90, 108) / 100)
    pitch, look = dice.between(230, 320) if kind == "house" else dice.between(170, 400), dice.fork()
    for plane, length, shade in (
        (Plane(pen, (min(x, back), 0, z0), (1, 0, 0)), depth, light.on(0, 0, -1)),
        (Plane(pen, (x, 0, z0), (0, 0, 1)), z1 - z0, light.on(-side, 0, 0)),
    ):
        plane.rects(0, 0, length, height, wall, shade)
        plane.rects(0, 0, length, 45, wall, shade * 0.7)
        _draw_windows(plane, kind, length, (storeys, storey, pitch), wall, shade, look)


def _draw_windows(plane: Plane, kind: str, length, grid, wall, shade, dice: Dice) -> None:
    """Windows in rows, and a door or a glazed ground floor."""
    (storeys, storey, pitch), light = grid, plane.pen.light
    count = max(int((length - 60) // pitch), 1)
    u = (length - count * pitch) / 2 + pitch * np.arange(count)
    u, v = np.tile(u, storeys), np.repeat(storey * np.arange(storeys), count)
    lit = dice.noise(len(u)) < light.lit_windows / 50 - 1
    glass, frame = mixed((54, 66, 82), light.zenith, 0.2), mixed(wall, (246, 242, 234), 0.75)
    near = plane.origin[2] < 3000
    if kind == "house":
        half, middle = min(58, pitch * 0.3), u + pitch / 2
        box = [middle - half, v + 95, middle + half, v + 235]
        plane.rects(box[0] - 10, v + 79, box[2] + 10, v + 243, frame, shade)
    else:
        box = [u + 14, v + 85, u + pitch - 14, v + storey - 30]
        box[1][:count] = 50  # the ground floor
        ledges = storey * np.arange(1, storeys + 1)
        plane.rects(0, ledges - 6, length, ledges + 22, wall, shade * 0.86)
    for chosen, colour, tone in ((~lit, glass, (1 + shade) / 2), (lit, (250, 212, 136), 1)):
        u0, v0, u1, v1 = (corner[chosen] for corner in box)
        plane.rects(u0, v0, u1, v1, colour, tone)
        if near:
            plane.rects(u0, v0, u0 * 0.45 + u1 * 0.55, v0 * 0.4 + v1 * 0.6, colour, tone * 0.86)
    if kind == "house" and near:
        plane.rects(middle - 5, v + 95, middle + 5, v + 235, frame, shade)
        plane.rects(box[0], v + 180, box[2], v + 188, frame, shade)
        door = middle[count // 2] + pitch / 2 if count > 1 else 60
        plane.rects(door - 55, 0, door + 55, 225, frame, shade)
        plane.rects(door - 45, 0, door + 45, 215, dice.colour("door"), shade)


def draw_barrier(canvas: Canvas, kind: str, side, x, z0, z1, height, dice: Dice) -> None:
    """Draw a "wall" of stone, a wooden "fence" or a "hedge" along the street at x."""
    pen = Pen(canvas, kind, z0 * 0.7 + z1 * 0.3, (10, 16) if kind == "hedge" else (6, 6))
    plane, shade = Plane(pen, (x, 0, z0), (0, 0, 1)), canvas.light.on(-side, 0, 0)
    colour, length = dice.colour(kind), z1 - z0
    base = {"wall": 1, "fence": 0.42, "hedge": 0.7}[kind]  # a fence's gaps are dark
    plane.rects(0, 0, length, height, colour, shade * base)
    if kind == "hedge":
        count = min(length * height // 3400, 90)
        plane.leaves((0, 20, length, height), count, 40, colour, shade, dice)
    elif kind == "wall":
        rows = np.arange(0, height - 20, 32)
        plane.rects(0, rows, length, rows + 5, colour, shade * 0.8)
        for odd in (0, 1):
            joints, courses = np.arange(odd * 40, length - 4, 80)[:, None], rows[odd::2]
            plane.rects(joints, courses, joints + 5, courses + 32, colour, shade * 0.8)
        plane.rects(0, height - 14, length, height, colour, shade * 1.12)
    else:
        slats, posts = np.arange(0, length - 20, 34), np.arange(0, length - 20, 272)
        plane.rects(slats, 10, slats + 22, height, colour, shade)
        rails = np.array([28, height - 40])
        plane.rects(0, rails, length, rails + 14, colour, shade * 0.8)
        plane.rects(posts, 0, posts + 20, height + 12, colour, shade * 0.9)


def draw_tree(canvas: Canvas, kind: str, x: float, z: float, height: int, dice: Dice) -> None:
    """Draw a "broadleaf" or a "conifer" with its trunk."""
    plane = Plane(Pen(canvas, kind, z, grain=(9, 14)), (x, 0, z), (1, 0, 0))
    trunk, sun, green = height / 36, canvas.light.sun[0] * 0.5, dice.colour(kind)
    for u, tone in ((-trunk, 1.1), (0, 0.75)):
        plane.rects(u, 0, u + trunk, height * 0.6, COLOURS["trunk"], tone)
    if kind == "broadleaf":
        radius = height * dice.between(28, 36) / 100
        count = min(14 + canvas.camera.focal * height // int(z * 8), 70)
        plane.leaves((-radius, height * 0.34, radius, height), count, radius * 0.29, green, 0.95,
                     dice, sun=sun, oval=True)  # fmt: skip
        return
    tiers = dice.between(6, 9)  # from below
    k, bough = np.arange(tiers)[:, None] / tiers, np.arange(9)
    u, v = np.zeros((tiers, 11)), np.empty((tiers, 11))  # tip, boughs from right to left, tip
    u[:, 1:-1] = height * dice.between(21, 25) / 100 * (1 - 0.8 * k) * (1 - bough / 4)
    v[:, 1:-1] = height * (0.1 + 0.82 * k + 0.035 * (bough % 2))
    v[:, ::10] = height * np.minimum(0.34 + 0.82 * k, 1)
    for tier, tone in zip(plane.project(u, v), 0.84 + 0.3 * k[:, 0], strict=True):
        for part, change in ((tier, 0), (tier[:6], sun), (tier[5:], -sun)):
            plane.pen.flat([part], green, tone + change)
