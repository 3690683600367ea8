"""What stands where in a generated street scene.

Each method takes a stream and returns items: the distance of a thing, and a function that draws it.
The scene sorts them and draws from far to near.
"""

from collections.abc import Callable

from hiera_seg.data.generated.buildings import Building, Panel, draw_barrier, draw_building
from hiera_seg.data.generated.canvas import Camera, Canvas
from hiera_seg.data.generated.figures import draw_pedestrian, draw_pole, draw_two_wheeler
from hiera_seg.data.generated.plants import draw_tree
from hiera_seg.data.generated.stream import Stream
from hiera_seg.data.generated.surroundings import FAR, Light, Street
from hiera_seg.data.generated.vehicles import Vehicle

Item = tuple[int, Callable[[], None]]  # distance, and what draws it
KERBSIDE = ("pole", "traffic_light", "traffic_sign", "traffic_sign", "tree")


class Layout:
    """Decides what stands along the street and in it.

    Args:
        canvas, camera: what to draw on, and how.
        street: the cross-section of the street.
        light: the time of day.
        labels: {leaf name: id}.
    """

    def __init__(
        self, canvas: Canvas, camera: Camera, street: Street, light: Light, labels: dict[str, int]
    ):
        self.canvas, self.camera = canvas, camera
        self.street, self.light, self.labels = street, light, labels
        self._taken: list[tuple[int, int, int, int]] = []  # ground: x from, to, z from, to

    # ------------------------------------------------------------------------- along the street

    def lots(self, stream: Stream) -> tuple[list[Item], dict[tuple[int, int], int]]:
        """Buildings, gardens and parks on both sides, and the shadows they throw."""
        items: list[Item] = []
        shadows: dict[tuple[int, int], int] = {}
        c0, c1 = self.street.crossing
        for side in (-1, 1):
            z = stream.between(100, 900) - 900
            # Neighbours are of a kind: a block of offices, a row of gardens.
            mood = stream.pick(["town", "suburb", "park"])
            while z < FAR - 600:
                length = stream.between(800, 1900)
                if c1 and z < c1 + 240 and z + length > c0 - 240:
                    if z < c0 - 700:
                        length = c0 - 240 - z
                    else:
                        z = c1 + 240
                        mood = stream.pick(["town", "suburb", "park"])
                        continue
                z0, z1 = max(z, 170), z + length
                if z1 > z0 + 100:
                    reach = self._lot(items, mood, side, z0, z1, stream)
                    if side == self.light.sun_side:
                        shadows[z0, z1] = reach
                z += length
                if mood == "suburb" and stream.chance(40):
                    z += stream.between(100, 400)
        return items, shadows

    def _lot(self, items, mood: str, side: int, z0: int, z1: int, stream: Stream) -> int:
        """One lot; returns how far its shadow reaches into the street, cm."""
        canvas, camera, light, labels = self.canvas, self.camera, self.light, self.labels
        front = self.street.front(side)
        kinds = {
            "town": ["office", "office", "house", "barrier", "barrier"],
            "suburb": ["house", "garden", "garden", "barrier", "barrier"],
            "park": ["barrier", "barrier", "barrier", "open", "garden"],
        }
        kind = stream.pick(kinds[mood])
        shade = light.side_shade(side)
        if kind in ("office", "house"):
            building = Building.draw(kind == "house", stream)
            depth = stream.between(1200, 2600)

            def draw_flush():
                draw_building(
                    canvas, camera, building, side, front, z0, z1, depth, light, labels[kind]
                )

            items.append((z0 * 4 + 3, draw_flush))
            return building.height * 45 // 100
        if kind == "garden" and z1 - z0 > 500:
            building = Building.draw(stream.chance(80), stream)
            villa = labels["house" if building.is_house else "office"]
            set_back = front + side * stream.between(350, 800)
            inset = stream.between(0, 150)

            def draw_villa():
                draw_building(
                    canvas, camera, building, side, set_back, z0 + inset, z1 - inset, 1100, light,
                    villa,
                )  # fmt: skip

            items.append((z1 * 4 + 3, draw_villa))  # before the trees in its front garden
            self._trees(items, side, front + side * 170, z0, z1, 1, stream)
        else:
            count = 1 + (z1 - z0) // 500
            self._trees(items, side, front + side * stream.between(200, 500), z0, z1, count, stream)
        if kind != "open":
            name = stream.pick(["wall", "fence", "hedge"])
            height = stream.between(190, 320)
            look = stream.below(1 << 31)

            def draw_front():
                panel = Panel.along(canvas, camera, front, z0, z1, height + 50)
                draw_barrier(canvas, camera, name, panel, height, shade, look, labels[name])

            items.append((z0 * 4, draw_front))
        return 260

    def _trees(self, items, side, x, z0, z1, count, stream: Stream) -> None:
        """A row of trees behind a barrier; mostly of one species."""
        main = stream.chance(50)
        for _ in range(count):
            z = stream.between(z0, max(z1 - 60, z0))
            if z < 350:
                continue
            is_conifer = main if stream.chance(75) else not main
            items.append(
                (z * 4, self._tree(is_conifer, x + side * stream.between(0, 420), z, stream))
            )

    def _tree(self, is_conifer: bool, x: int, z: int, stream: Stream) -> Callable[[], None]:
        height = stream.between(420, 900)
        look = Stream(stream.below(1 << 31))
        label = self.labels["conifer" if is_conifer else "broadleaf"]
        return lambda: draw_tree(
            self.canvas, self.camera, is_conifer, x, z, height, self.light, label, look
        )

    # ---------------------------------------------------------------------------- in the street

    def _free(self, x0: int, x1: int, z0: int, z1: int) -> bool:
        """Whether a place on the ground is free; if so it is taken from now on."""
        for a0, a1, b0, b1 in self._taken:
            if x0 < a1 and a0 < x1 and z0 < b1 and b0 < z1:
                return False
        self._taken.append((x0, x1, z0, z1))
        return True

    def _add_vehicle(self, items: list[Item], vehicle: Vehicle) -> bool:
        (x0, x1), (z0, z1) = vehicle.x, vehicle.z
        if not self._free(x0 - 15, x1 + 15, z0 - 90, z1 + 60):
            return False
        label = self.labels[vehicle.kind]
        items.append((z0, lambda: vehicle.draw(self.canvas, self.camera, self.light, label)))
        return True

    def traffic(self, stream: Stream) -> list[Item]:
        """Vehicles across the crossing, along the lanes, and parked at the kerbs."""
        items: list[Item] = []
        street = self.street
        kinds = ["car", "car", "car", "van", "van", "van", "truck", "truck", "bus", "bus"]
        c0, c1 = street.crossing
        if c1:
            for view, z in (("right", c0 + 60), ("left", c0 + 400)):
                if stream.chance(75):
                    x = stream.between(-900, 700)
                    look = stream.below(1 << 31)
                    self._add_vehicle(items, Vehicle(stream.pick(kinds), x, z, view, look))
        elif stream.chance(30):  # turning, or out of a gateway
            x, z = stream.between(-700, 500), stream.between(1100, 2000)
            view = stream.pick(["left", "right"])
            look = stream.below(1 << 31)
            self._add_vehicle(items, Vehicle(stream.pick(kinds), x, z, view, look))

        right_lanes = [x + 165 for x in street.lanes if x >= -165 and x + 330 <= street.road[1]]
        left_lanes = [x - 165 for x in street.lanes if x <= -165 and x - 330 >= street.road[0]]
        for lanes, view in ((right_lanes, "rear"), (left_lanes, "front")):
            for lane in lanes:
                z = stream.between(900, 2200) if lane == 0 else stream.between(650, 2200)
                while z < 4200:
                    kind = stream.pick(kinds)
                    x = lane + stream.between(-25, 25)
                    self._add_vehicle(items, Vehicle(kind, x, z, view, stream.below(1 << 31)))
                    z += stream.between(1100, 2600)
        for side, edge in ((-1, street.road[0]), (1, street.road[1])):
            if stream.chance(55):
                continue
            z = stream.between(450, 1500)
            view = "rear" if side > 0 else "front"
            while z < 3600:
                kind = stream.pick(["car", "car", "van", "van", "truck"])
                inward = Vehicle.SIZES[kind][0] // 2 + 25
                if stream.chance(75):
                    x = edge - side * inward
                    self._add_vehicle(items, Vehicle(kind, x, z, view, stream.below(1 << 31)))
                z += stream.between(560, 900)
        return items

    def furniture(self, stream: Stream) -> list[Item]:
        """Lamps, lights, signs and trees along both kerbs."""
        items: list[Item] = []
        c0, c1 = self.street.crossing
        for side, edge in ((-1, self.street.road[0]), (1, self.street.road[1])):
            if c1:
                for z in (c0 - 120, c1 + 120):
                    x = edge + side * 50
                    if stream.chance(80) and self._free(x - 20, x + 20, z - 20, z + 20):
                        items.append((z, self._pole("traffic_light", x, z, side, stream)))
            verge = self.street.verge[0 if side < 0 else 1]
            trees = stream.chance(60 if verge else 30)
            is_conifer = stream.chance(40)
            z = stream.between(420, 900)
            while z < 4200:
                x = edge + side * stream.between(36, 60)
                kind = stream.pick(KERBSIDE)
                crossing = c1 and c0 - 250 < z < c1 + 250
                if not crossing and self._free(x - 25, x + 25, z - 25, z + 25):
                    if kind == "tree":
                        if trees:
                            items.append((z, self._tree(is_conifer, x + side * 40, z, stream)))
                    elif kind == "pole" or z < 2400:
                        items.append((z, self._pole(kind, x, z, side, stream)))
                z += stream.between(260, 700)
        return items

    def _pole(self, kind: str, x: int, z: int, side: int, stream: Stream) -> Callable[[], None]:
        look = Stream(stream.below(1 << 31))
        return lambda: draw_pole(self.canvas, self.camera, kind, x, z, side, self.labels, look)

    def people(self, stream: Stream) -> list[Item]:
        """Pedestrians, riders, and two-wheelers without a rider."""
        items: list[Item] = []
        street = self.street
        for _ in range(stream.between(5, 9)):
            z = stream.between(380, 1100)
            s = stream.below(2)
            side = (-1, 1)[s]
            outside = street.verge[s] + stream.between(90, max(street.walk[s] - 40, 100))
            x = street.road[s] + side * outside
            if stream.chance(25):
                x = stream.between(street.road[0], street.road[1])
                z = max(z, 560)
            if self._free(x - 30, x + 30, z - 30, z + 30):
                look = Stream(stream.below(1 << 31))
                items.append((z, self._pedestrian(x, z, look)))
        for _ in range(stream.between(3, 5)):
            kind = stream.pick(["bicycle", "motorcycle"])
            ridden = stream.chance(70)
            profile = stream.chance(60)
            z = stream.between(430, 1000)
            s = stream.below(2)
            side = (-1, 1)[s]
            if ridden:
                x = stream.between(street.road[0] + 60, street.road[1] - 60)
                z = max(z, 500)
            else:
                x = street.road[s] + side * (street.verge[s] + street.walk[s] - 50)
            half = 95 if profile else 40
            if self._free(x - half, x + half, z - 40, z + 40):
                look = Stream(stream.below(1 << 31))
                items.append((z, self._two_wheeler(kind, x, z, profile, ridden, look)))
        return items

    def _pedestrian(self, x: int, z: int, look: Stream) -> Callable[[], None]:
        label = self.labels["pedestrian"]
        return lambda: draw_pedestrian(self.canvas, self.camera, x, z, label, look)

    def _two_wheeler(self, kind, x, z, profile, ridden, look: Stream) -> Callable[[], None]:
        return lambda: draw_two_wheeler(
            self.canvas, self.camera, kind, x, z, profile, ridden, self.labels, look
        )

    def draw_backdrop(self, stream: Stream) -> None:
        """What closes the street at its far end: woods or a skyline, across the whole picture."""
        canvas, camera, light, labels = self.canvas, self.camera, self.light, self.labels
        reach = FAR * canvas.width // camera.focal
        woods = stream.chance(50)
        x = -reach
        while x < reach:
            if woods:
                is_conifer = stream.chance(50)
                name = "conifer" if is_conifer else "broadleaf"
                height = stream.between(700, 1300)
                draw_tree(canvas, camera, is_conifer, x, FAR, height, light, labels[name], stream)
                x += stream.between(260, 420)
            else:
                width = stream.between(1200, 3000)
                is_house = stream.chance(45)
                b = Building.draw(is_house, stream)
                name = "house" if is_house else "office"
                draw_building(canvas, camera, b, 1, x, FAR, FAR + 900, width, light, labels[name])
                x += width
