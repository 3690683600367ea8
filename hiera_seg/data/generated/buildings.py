"""Buildings, walls, fences and hedges: upright planes with textures in perspective."""

from dataclasses import dataclass

import numpy as np

from hiera_seg.data.generated.canvas import Camera, Canvas, Colour, mixed, polygon, shaded
from hiera_seg.data.generated.stream import TILE, Stream, noise_tile, scatter
from hiera_seg.data.generated.surroundings import Light


class Panel:
    """A vertical plane on the canvas with its own coordinates for textures.

    Attributes:
        y, x: corner on the canvas.
        u: int32 (1, w), cm along the panel.
        v: int32 (h, w) or (h, 1), cm above the ground.
        z: int32 (1, w), distance, for the haze.
    """

    def __init__(self, canvas: Canvas, y: int, x: int, u, v, z):
        self.canvas, self.y, self.x, self.u, self.v = canvas, y, x, u, v
        self.shape = np.broadcast_shapes(u.shape, v.shape)
        self._air = canvas.haze_share(z)

    @classmethod
    def along(cls, canvas: Canvas, camera: Camera, x: int, z0: int, z1: int, top: int):
        """A panel parallel to the street at x, from z0 to z1; u counts from z0."""
        a, b = camera.x(x, z0), camera.x(x, z1)
        box = canvas.clip(
            min(a, b), camera.y(top, z0) - 1, max(a, b), max(camera.y(0, z0), camera.horizon)
        )
        if box is None or z1 <= z0:
            return None
        x0, y0, x1, y1 = box
        columns = 2 * (np.arange(x0, x1, dtype=np.int64) - camera.centre) + 1
        z = np.clip(2 * camera.focal * x // columns, z0, z1 - 1).astype(np.int32)[None, :]
        rows = np.arange(y0, y1, dtype=np.int32)[:, None] - camera.horizon
        v = camera.height - (rows * ((z << 8) // camera.focal) >> 8)
        return cls(canvas, y0, x0, z - z0, v, z)

    @classmethod
    def across(cls, canvas: Canvas, camera: Camera, z: int, x0: int, x1: int, top: int):
        """A panel facing the camera at distance z, from x0 to x1 > x0; u counts from x0."""
        box = canvas.clip(camera.x(x0, z), camera.y(top, z), camera.x(x1, z), camera.y(0, z))
        if box is None:
            return None
        left, y0, right, y1 = box
        scale = (z << 8) // camera.focal
        u = (np.arange(left, right, dtype=np.int32) - camera.centre) * scale >> 8
        rows = np.arange(y0, y1, dtype=np.int32)[:, None] - camera.horizon
        v = camera.height - (rows * scale >> 8)
        far = np.full((1, right - left), z, dtype=np.int32)
        return cls(canvas, y0, left, np.clip(u - x0, 0, x1 - x0 - 1)[None, :], v, far)

    def noise(self, cell: int, octaves: int, shift: int, stream: Stream) -> np.ndarray:
        """Noise fixed to the surface, 2**shift cm a texel; int32 of the panel's shape."""
        ou, ov = stream.below(TILE), stream.below(TILE)
        tile = noise_tile(cell, octaves)
        rows = ((self.v >> shift) + ov) & (TILE - 1)
        return tile[rows, ((self.u >> shift) + ou) & (TILE - 1)].astype(np.int32)

    def paint(self, mask, colour: Colour, tone, label=None, rank=None) -> None:
        """Paint a material: its colour plus `tone` grey values, seen through the air."""
        colour = np.array(colour, dtype=np.int32)[:, None, None] + np.asarray(tone)
        haze = np.array(self.canvas.haze, dtype=np.int32)[:, None, None]
        colour = colour + ((haze - colour) * self._air >> 8)
        mask = np.broadcast_to(mask, self.shape)
        self.canvas.put(self.y, self.x, mask, colour, label, rank)


@dataclass(frozen=True)
class Building:
    """How a building looks: houses are warm, offices cool; windows and roofs differ too."""

    is_house: bool
    height: int  # of the walls, cm
    wall: Colour
    glass: Colour
    roof: Colour
    roof_height: int
    pitch_u: int  # distance between windows along the wall
    pitch_v: int  # between storeys
    window: tuple[int, int, int, int]  # u from, to, v from, to within one pitch
    seed: int

    @classmethod
    def draw(cls, is_house: bool, stream: Stream) -> "Building":
        if is_house:
            walls = [(158, 98, 78), (196, 166, 118), (128, 78, 66), (186, 160, 136)]
        else:
            walls = [(170, 174, 178), (132, 140, 150), (152, 152, 152), (174, 170, 164)]
        glass = stream.pick([(66, 84, 104), (52, 62, 74), (88, 108, 124)])
        wall = shaded(stream.pick(walls), stream.between(215, 275))
        roof = stream.pick([(126, 66, 52), (92, 84, 84), (108, 78, 62), (82, 70, 66)])
        if is_house:
            storeys, pitch_v = stream.between(2, 3), stream.between(280, 320)
            pitch_u = stream.between(240, 340)
            half = stream.between(45, 65)
            window = (pitch_u // 2 - half, pitch_u // 2 + half, 95, 95 + stream.between(120, 150))
        else:
            storeys, pitch_v = stream.between(3, 8), stream.between(300, 370)
            pitch_u = stream.between(150, 420)
            window = (16, pitch_u - 16, 85, pitch_v - stream.between(25, 60))
        return cls(
            is_house, storeys * pitch_v + 60, wall, glass, roof, stream.between(220, 380),
            pitch_u, pitch_v, window, stream.below(1 << 31),
        )  # fmt: skip


def paint_facade(panel: Panel | None, b: Building, light: Light, shade: int, label, rank):
    """Wall, windows, frames and ground floor on one face of a building."""
    if panel is None:
        return
    stream = Stream(b.seed)
    u, v = panel.u, panel.v
    body = (v >= 0) & (v < b.height)
    rough = panel.noise(4, 2, 3, stream) >> 3
    stains = panel.noise(128, 4, 2, stream) >> 3
    tone = rough + stains
    panel.paint(body, shaded(b.wall, shade), tone, label, rank)

    cell_u, cell_v = u // b.pitch_u, v // b.pitch_v
    in_u, in_v = u - cell_u * b.pitch_u, v - cell_v * b.pitch_v
    u0, u1, v0, v1 = b.window
    panes = (in_u >= u0) & (in_u < u1) & (in_v >= v0) & (in_v < v1)
    panes = panes & (v >= 0) & (v < b.height - 60)
    code = cell_u.astype(np.uint32) * np.uint32(7919) + cell_v.astype(np.uint32) * np.uint32(104729)
    code = (scatter(code + np.array([b.seed], dtype=np.uint32)) >> np.uint32(24)).astype(np.int32)
    glass = shaded(b.glass, (shade + 256) // 2)
    reflection = (in_v - v0) * 40 // b.pitch_v + (code & 31) - 16
    panel.paint(panes, glass, reflection)
    panel.paint(panes & (code < light.lit_windows), (246, 206, 128), (code & 31) - 16)
    if b.is_house:
        frame = shaded(mixed(b.wall, (244, 240, 232), 180), shade)
        cross = (np.abs(in_u - (u0 + u1) // 2) < 6) | (np.abs(in_v - (v0 + v1) // 2) < 5)
        panel.paint(panes & cross, frame, 0)
        sill = (in_u >= u0 - 10) & (in_u < u1 + 10) & (in_v >= v0 - 16) & (in_v < v0)
        panel.paint(sill & body & (v < b.height - 60), frame, 0)
        door = (cell_u % 3 == 1) & (in_u >= u0 + 5) & (in_u < u1 - 5) & (v >= 0) & (v < 215)
        panel.paint(door, shaded((94, 62, 44), shade), 0)
    else:
        ledge = body & (in_v < 22) & (v > 100)
        panel.paint(ledge, shaded(b.wall, shade * 220 >> 8), rough)
    plinth = (v >= 0) & (v < 45)
    panel.paint(plinth, shaded(b.wall, shade * 170 >> 8), rough)


def draw_building(
    canvas: Canvas,
    camera: Camera,
    building: Building,
    side: int,
    x: int,
    z0: int,
    z1: int,
    depth: int,
    light: Light,
    label: int,
) -> None:
    """A building on one side of the street: roof, face along the street, face towards us."""
    rank = canvas.new_object()
    back = x + side * depth
    height = building.height
    shade = light.side_shade(side)
    if building.is_house:
        ridge_x, ridge_y = x + side * depth // 2, height + building.roof_height
        hip = min(200, (z1 - z0) // 3)
        roof = canvas.hazed(shaded(building.roof, shade), (z0 + z1) // 2)
        stream = Stream(building.seed, 1)
        eaves = [(x - side * 30, height - 10, z0), (x - side * 30, height - 10, z1)]
        slope = eaves + [(ridge_x, ridge_y, z1 - hip), (ridge_x, ridge_y, z0 + hip)]
        points = [camera.point(*p) for p in slope]
        polygon(canvas, points, roof, label, rank, grains=14, stream=stream)
        front = [(x - side * 30, height - 10, z0), (back, height - 10, z0)]
        front = front + [(ridge_x, ridge_y, z0 + hip)]
        roof = canvas.hazed(shaded(building.roof, 205), z0)
        points = [camera.point(*p) for p in front]
        polygon(canvas, points, roof, label, rank, grains=14, stream=stream)
    face = Panel.across(canvas, camera, z0, min(x, back), max(x, back), height)
    paint_facade(face, building, light, 205, label, rank)
    paint_facade(
        Panel.along(canvas, camera, x, z0, z1, height), building, light, shade, label, rank
    )


def draw_barrier(
    canvas: Canvas,
    camera: Camera,
    kind: str,
    panel: Panel | None,
    height: int,
    shade: int,
    look: int,
    label: int,
) -> None:
    """A wall of stone, a fence of wood or a hedge on a panel, all as tall as each other."""
    if panel is None:
        return
    stream = Stream(look)
    rank = canvas.new_object()
    u, v = panel.u, panel.v
    if kind == "wall":
        colours = [(204, 196, 176), (190, 186, 174), (212, 202, 170)]
    else:
        colours = [(128, 84, 50), (142, 100, 62), (112, 72, 44)]
    colour = shaded(stream.pick(colours), shade)
    body = (v >= 0) & (v < height)
    rough = panel.noise(8, 3, 1, stream)
    if kind == "hedge":
        lumps = panel.noise(64, 4, 1, stream)
        body = (v >= 0) & (v < height + (lumps >> 2))
        green = stream.pick([(66, 104, 42), (60, 96, 40), (72, 110, 46)])
        lift = np.minimum(v, height) * 40 // height - 26
        panel.paint(body, shaded(green, shade), (rough >> 1) + (lumps >> 2) + lift, label, rank)
    elif kind == "wall":
        panel.paint(body, colour, rough >> 3, label, rank)
        course = v // 26
        joints = ((v % 26 < 4) | ((u + (course & 1) * 30) % 60 < 4)) & body
        panel.paint(joints, shaded(colour, 196), rough >> 3)
        panel.paint(body & (v > height - 16), shaded(colour, 290), rough >> 3)
    else:
        pitch = stream.between(26, 40)
        rails = (np.abs(v - 30) < 7) | (np.abs(v - height + 26) < 7)
        posts = u % (pitch * 8) < 14
        slats = (u % pitch < pitch * 11 // 20) & (v > 10)
        # The gaps belong to the fence; what shines through them is dark.
        panel.paint(body, shaded(colour, 120), rough >> 3, label, rank)
        panel.paint(body & slats, colour, rough >> 3)
        panel.paint(body & (rails | posts), shaded(colour, 230), rough >> 3)
