"""Draw a street scene from a seed: what stands where, in which light."""

from collections.abc import Callable

import numpy as np

from hiera_seg.hierarchy import Hierarchy

from .canvas import SCALE, SHAPES, Camera, Canvas, Dice, Light, Pen, Plane, mixed, smooth_noise
from .figures import draw_pedestrian, draw_pole, draw_two_wheeler
from .files import SIZE, TREE
from .lots import draw_barrier, draw_building, draw_tree
from .vehicles import Vehicle

FAR = 9000  # cm; where the street ends in a backdrop
LANE = 330  # cm
IDS = {name: node for node, name in enumerate(Hierarchy.load(TREE).leaf_names)}
MOODS = list(SHAPES["moods"].values())  # of a neighbourhood


def draw_scene(seed: int, index: int, size=SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Draw one street scene. The same arguments give the same pixels on every machine.

    Args:
        seed, index: any integers; each pair is a scene of its own.
        size: height and width in pixels, at least 64 x 64.

    Returns:
        image: uint8 (H, W, 3), RGB.
        labels: uint8 (H, W), leaf ids of the tree in tree.yaml; 255 is void (the image's border, a
            rim around every object).

    Raises:
        ValueError: the size is smaller than 64 x 64.
    """
    height, width = size
    if height < 64 or width < 64:
        raise ValueError(f"size is {size}: a scene needs at least 64 x 64 pixels")
    return Street(seed, index, height, width).draw()


class Street:
    """A street and everything in it; each part has dice of its own."""

    def __init__(self, seed: int, index: int, height: int, width: int):
        self.dice = [Dice(seed, index, part) for part in range(8)]
        dice = self.dice[0]
        self.light, h, w = Light(**dice.pick(SHAPES["lights"])), height * SCALE, width * SCALE
        self.light.cloud += dice.between(0, 70)
        self.light.sun = (self.light.sun[0] * dice.pick([-1, 1]), *self.light.sun[1:])
        camera = Camera(
            w * dice.between(96, 116) // 100, w * dice.between(36, 64) // 100,
            h * dice.between(42, 54) // 100, dice.between(150, 190),
        )  # fmt: skip
        reach = dice.pick([9000, 14000, 22000])
        self.canvas = Canvas(h, w, camera, self.light, reach, IDS)
        parking = [dice.pick([0, 0, 210]) for _ in range(2)]
        self.lanes = dice.pick([1, 1, 2]), dice.pick([1, 1, 2])  # against us, and our way
        self.kerbs = [-LANE * self.lanes[0] - parking[0], LANE * self.lanes[1] + parking[1]]
        shift = dice.between(140, 190)  # the camera drives in the innermost lane of its way
        self.kerbs, self.middle = [k - shift for k in self.kerbs], -shift
        self.verge = [dice.between(160, 320) if dice.chance(50) else 0 for _ in range(2)]
        self.walk = [dice.between(220, 400) for _ in range(2)]
        start = dice.between(1000, 2100)
        self.crossing = (start, start + 700) if dice.chance(45) else None
        self.items: list[tuple[float, Callable]] = []  # distance, and what draws it
        self.taken: list[tuple[float, ...]] = []  # of the ground: x from, to, z from, to

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Return image and labels."""
        for side in (-1, 1):
            self._line_with_lots(side, self.dice[1])
        lots, self.items = self.items, []
        for side in (-1, 1):
            self._line_with_furniture(side, self.dice[2])
        self._fill_with_traffic(self.dice[3])
        self._fill_with_people(self.dice[4])
        self._draw_sky(self.dice[5])
        self._draw_ground(self.dice[5])
        self._draw_backdrop(self.dice[6])
        for items in (lots, self.items):
            for _, draw in sorted(items, key=lambda item: -item[0]):
                draw()
        return self.canvas.finish(self.dice[7])

    def _near_crossing(self, z0: float, z1: float) -> bool:
        return bool(self.crossing) and z0 < self.crossing[1] + 240 and z1 > self.crossing[0] - 240

    def _line_with_lots(self, side: int, dice: Dice) -> None:
        """Buildings, gardens and parks."""
        z, mood = dice.between(-800, 0), dice.pick(MOODS)
        while z < FAR - 600:
            length = dice.between(800, 1900)
            if self._near_crossing(z, z + length):
                if z < self.crossing[0] - 700:
                    length = self.crossing[0] - 240 - z
                else:
                    z, mood = self.crossing[1] + 240, dice.pick(MOODS)
                    continue
            if z + length > 300:
                self._add_lot(mood, side, max(z, 180), z + length, dice)
            z += length + (dice.between(0, 300) if "garden" in mood else 0)

    def _add_lot(self, mood: list[str], side: int, z0: int, z1: int, dice: Dice) -> None:
        s = side > 0
        front, look = self.kerbs[s] + side * (self.verge[s] + self.walk[s]), dice.fork()
        kind, reach = dice.pick(mood), 240
        if kind in ("office", "house"):
            depth, reach = dice.between(1200, 2400), 460
            self._add(z0 + 1, draw_building, kind, side, front, z0, z1, depth, look)
        else:
            if kind == "garden" and z1 - z0 > 500:
                villa, back = "house" if dice.chance(80) else "office", dice.between(350, 800)
                self._add(z1 + 1, draw_building, villa, side, front + side * back, z0, z1, 1100,
                          dice.fork())  # fmt: skip
            species = dice.pick(["broadleaf", "conifer"])
            for _ in range(1 + (z1 - z0) // 500 * (kind == "barrier")):
                z, x = dice.between(z0 + 100, z1), front + side * dice.between(180, 600)
                self._add_tree(species, x, z, dice)
            self._add(z0, draw_barrier, dice.pick(["wall", "fence", "hedge"]), side, front, z0, z1,
                      dice.between(190, 320), look)  # fmt: skip
        if side * self.light.sun[0] > 0:
            a, b = front, front - side * reach
            self.canvas.shadows.append((self.light.shadow, [(a, z0), (b, z0), (b, z1), (a, z1)]))

    def _add(self, z: float, draw: Callable, *args) -> None:
        self.items.append((z, lambda: draw(self.canvas, *args)))

    def _add_tree(self, kind: str, x: int, z: int, dice: Dice) -> None:
        if 350 < z < 5000:
            self._add(z, draw_tree, kind, x, z, dice.between(450, 900), dice.fork())

    def _line_with_furniture(self, side: int, dice: Dice) -> None:
        """Lamps, lights, signs and trees along the kerb."""
        kerb, species = self.kerbs[side > 0], dice.pick(["broadleaf", "conifer"])
        for z in (self.crossing[0] - 120, self.crossing[1] + 120) if self.crossing else ():
            if dice.chance(80):
                self._add_pole("traffic_light", kerb + side * 50, z, side, dice)
        z, trees = dice.between(420, 900), dice.chance(45)
        while z < 4200:
            kind = dice.pick(["pole", "traffic_light", "traffic_sign", "traffic_sign", "tree"])
            x = kerb + side * dice.between(36, 60)
            if not self._near_crossing(z, z):
                if kind == "tree" and trees and self._free(x, z, 25, 25):
                    self._add_tree(species, x + side * 40, z, dice)
                elif kind == "pole" or (kind != "tree" and z < 2400):
                    self._add_pole(kind, x, z, side, dice)
            z += dice.between(260, 700)

    def _add_pole(self, kind: str, x: int, z: int, side: int, dice: Dice) -> None:
        if self._free(x, z, 20, 20):
            self._add(z, draw_pole, kind, x, z, side, dice.fork())
            self._cast(x, z, 18, 12)

    def _free(self, x: float, z: float, half_x: float, half_z: float) -> bool:
        """Return whether a place on the ground is free; if so it is taken from now on."""
        box = x - half_x, x + half_x, z - half_z, z + half_z
        for a0, a1, b0, b1 in self.taken:
            if box[0] < a1 and a0 < box[1] and box[2] < b1 and b0 < box[3]:
                return False
        self.taken.append(box)
        return True

    def _cast(self, x: float, z: float, half_x: float, half_z: float, depth: int = 120) -> None:
        """Darken the ground under a thing, and beside it where the sun shines."""
        x0, x1, z0, z1 = x - half_x, x + half_x, z - half_z, z + half_z
        self.canvas.shadows.append((depth, [(x0, z0), (x1, z0), (x1, z1), (x0, z1)]))
        if self.light.sun[0]:
            a, b = (x0, x0 - 1.2 * half_x) if self.light.sun[0] > 0 else (x1, x1 + 1.2 * half_x)
            self.canvas.shadows.append(
                (self.light.shadow, [(a, z1), (b, z1 + 20), (b, z0), (a, z0)])
            )

    def _add_vehicle(self, kinds: list[str], x: float, z: int, view: str, dice: Dice) -> None:
        vehicle = Vehicle(dice.pick(kinds), x, z, view, dice.fork())
        (x, z), (width, depth) = vehicle.middle, vehicle.size
        if self._free(x, z, width / 2 + 15, depth / 2 + 80):
            self._add(z - depth / 2, vehicle.draw)
            self._cast(x, z, width / 2 + 8, depth / 2 + 12, 150)

    def _fill_with_traffic(self, dice: Dice) -> None:
        """Vehicles across the street, along its lanes, and parked at its kerbs."""
        kinds = ["car", "car", "car", "van", "van", "van", "truck", "truck", "bus", "bus"]
        c0 = self.crossing[0] if self.crossing else dice.between(1100, 2000)
        for view, z in (("right", c0 + 60), ("left", c0 + 400)):
            if dice.chance(75 if self.crossing else 18):
                self._add_vehicle(kinds, dice.between(-900, 700), z, view, dice)
        for way, view in ((-1, "front"), (1, "rear")):
            for lane in range(self.lanes[way > 0]):
                x = self.middle + way * LANE * (lane + 0.5)
                z = dice.between(750, 2000) if abs(x) < 200 else dice.between(480, 1700)
                while z < 4200:
                    self._add_vehicle(kinds, x + dice.between(-25, 25), z, view, dice)
                    z += dice.between(1100, 2500)
        for side, view in ((-1, "front"), (1, "rear")):
            z = dice.between(450, 1500) if dice.chance(50) else FAR
            while z < 3600:
                if dice.chance(75) and not self._near_crossing(z, z + 500):
                    self._add_vehicle(["car", "car", "van", "van", "truck"],
                                      self.kerbs[side > 0] - side * 125, z, view, dice)  # fmt: skip
                z += dice.between(560, 900)

    def _fill_with_people(self, dice: Dice) -> None:
        """Pedestrians, and two-wheelers with and without a rider."""
        for person in range(dice.between(9, 14)):
            s, z = dice.between(0, 1), dice.between(360, 1100)
            side, in_road = 2 * s - 1, dice.chance(25) if person > 4 else dice.chance(70)
            x = self.kerbs[s] + side * (self.verge[s] + dice.between(60, self.walk[s] - 40))
            if in_road:
                x, z = dice.between(self.kerbs[0] + 60, self.kerbs[1] - 60), max(z, 500)
            half, look = 35 if person > 4 else 95, dice.fork()
            if not self._free(x, z, half, 30):
                continue
            self._cast(x, z, half * 0.7, 12)
            if person > 4:
                self._add(z, draw_pedestrian, x, z, look)
            else:
                kind = dice.pick(["bicycle", "motorcycle"])
                self._add(z, draw_two_wheeler, kind, x, z, in_road, look)

    def _draw_sky(self, dice: Dice) -> None:
        """A gradient with clouds, which get flatter towards the horizon."""
        pixels, light = self.canvas.pixels, self.light
        Pen(self.canvas, "sky", 0, (0, 0))
        height, width = self.canvas.camera.horizon // SCALE + 1, pixels.shape[1] // SCALE
        t = (np.arange(height, dtype=np.int32) * 256 // height)[:, None]
        seed, cover = dice.between(0, 1 << 30), 0
        for k in range(3):
            cell = max(height >> (2 + k), 1), max(width >> (2 + k), 1)
            cover = cover + (smooth_noise(height, width, cell, seed + k) >> k)
        cover = (cover + light.cloud - 100).clip(0, 110) * (272 - t) >> 7
        white = mixed((252, 252, 254), light.horizon, 0.3)
        for channel, colours in enumerate(zip(light.zenith, light.horizon, white, strict=True)):
            high, low, cloud = colours
            sky = high + ((low - high) * (t * t >> 8) >> 8)
            sky = (sky + ((cloud - (cover >> 3) - sky) * cover >> 8)).astype(np.int16)
            pixels[: SCALE * height, :, channel] = sky.repeat(SCALE, 0).repeat(SCALE, 1)

    def _draw_ground(self, dice: Dice) -> None:
        """Road with its markings, sidewalks and grass."""
        pens = [Pen(self.canvas, leaf, 0, (6, 12)) for leaf in ("road", "sidewalk", "grass")]
        road, walk, grass = (Plane(pen, (0, 0, 0), (1, 0, 0), (0, 0, 1)) for pen in pens)
        far, tone, (left, right) = 20 * FAR, dice.between(94, 116), self.kerbs
        asphalt, white, tile = (tone - 2, tone, tone + 4), (222, 222, 216), dice.between(60, 110)
        slab = dice.colour("slab")
        grass.rects(-far, 0, far, far, (98 + dice.between(-10, 14), 132, 62))
        for s, kerb in enumerate(self.kerbs):
            side, verge, width = 2 * s - 1, self.verge[s], self.walk[s]
            a, b = sorted((kerb + side * verge, kerb + side * (verge + width)))
            walk.rects(a, 0, b, far, slab)
            rows, columns = np.arange(300, 2600, tile), np.arange(a, b, tile)
            walk.rects(a, rows, b, rows + 4, slab, 0.86)
            walk.rects(columns, 0, columns + 4, 4000, slab, 0.86)
            edge = a if side > 0 else b - 18
            walk.rects(edge, 0, edge + 18, far, slab, 1.14)
        road.rects(left, 0, right, far, asphalt)
        for _ in range(dice.between(0, 3)):  # patches of newer asphalt
            x, z = dice.between(left, right - 300), dice.between(450, 2600)
            road.rects(x, z, x + dice.between(90, 300), z + dice.between(120, 700), asphalt, 0.88)
        lines = np.arange(1 - self.lanes[0], self.lanes[1]) * LANE + self.middle
        for track in (60 - LANE, 220 - LANE, 60, 220):  # polished by tyres
            road.rects(lines + track, 0, lines + track + 50, far, asphalt, 0.95)
        dashes = np.arange(dice.between(0, 900), FAR, 900)
        road.rects(lines[:, None] - 8, dashes, lines[:, None] + 8, dashes + 330, white)
        for x in (left + 18, right - 34):
            road.rects(x, 0, x + 16, far, white)
        if self.crossing:
            z0, z1 = self.crossing
            for a, b in ((-far, left), (right, far)):
                walk.rects(a, z0 - 220, b, z1 + 220, slab)
                road.rects(a, z0, b, z1, asphalt)
            road.rects(left, z0 - 420, right, z1 + 420, asphalt)
            stripes = np.arange(left + 30, right - 50, 100)
            road.rects(stripes[:, None], [z0 - 400, z1 + 60], stripes[:, None] + 50,
                       [z0 - 100, z1 + 360], white)  # fmt: skip

    def _draw_backdrop(self, dice: Dice) -> None:
        """What closes the street at its far end, across the whole image: woods or a skyline."""
        canvas, woods = self.canvas, dice.chance(50)
        reach = FAR * canvas.pixels.shape[1] // canvas.camera.focal
        x = -reach
        while x < reach:
            if woods:
                kind = dice.pick(["broadleaf", "conifer"])
                draw_tree(canvas, kind, x, FAR, dice.between(900, 1500), dice.fork())
                x += dice.between(300, 560)
            else:
                width, kind = dice.between(1200, 3000), dice.pick(["house", "office"])
                draw_building(canvas, kind, 1, x, FAR, FAR + 900, width, dice.fork())
                x += width
