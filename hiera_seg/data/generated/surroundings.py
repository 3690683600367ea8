"""Sky and ground of a generated street scene, and what decides their look: light and street."""

from dataclasses import dataclass

import numpy as np

from hiera_seg.data.generated.canvas import Camera, Canvas, Colour, ellipse_metric, mixed
from hiera_seg.data.generated.stream import TILE, Stream, noise_tile

FAR = 9000  # cm; where the street ends in a backdrop


@dataclass(frozen=True)
class Light:
    """Time of day: colours of the air, and where the light comes from."""

    zenith: Colour
    horizon: Colour
    gain: Colour  # multiplies the finished picture, in 1/256
    sun_side: int  # -1 left, +1 right, 0 no sun: no shadows
    shadow: int  # brightness in the shadow, in 1/256
    cloud: int  # cloud cover, 0..256
    lit_windows: int  # of 256

    def side_shade(self, side: int) -> int:
        """Brightness of a wall on that side of the street, in 1/256."""
        return 226 if self.sun_side == 0 else (250 if self.sun_side != side else 176)


@dataclass(frozen=True)
class Street:
    """The cross-section of the street, x in cm; constant along z but for one crossing."""

    road: tuple[int, int]  # left and right kerb
    lanes: tuple[int, ...]  # x of the lines between lanes
    verge: tuple[int, int]  # width of the grass between kerb and sidewalk, left and right
    walk: tuple[int, int]  # width of the sidewalks
    crossing: tuple[int, int]  # z from, to; (0, 0) where there is none
    road_tone: int
    walk_tone: int
    tile: int  # side of a sidewalk slab, cm

    def front(self, side: int) -> int:
        """x where the lots begin, side -1 (left) or +1."""
        s = 0 if side < 0 else 1
        return self.road[s] + side * (self.verge[s] + self.walk[s])


def draw_sky(canvas: Canvas, camera: Camera, light: Light, label: int, stream: Stream) -> None:
    """Vertical gradient, clouds that get flatter towards the horizon, and a sun."""
    height = min(camera.horizon + 1, canvas.height)  # the ground covers the rest
    rows = np.arange(height, dtype=np.int32)
    t = rows * 256 // height
    t = t * t >> 8
    zenith = np.array(light.zenith, dtype=np.int32)[:, None]
    horizon = np.array(light.horizon, dtype=np.int32)[:, None]
    gradient = zenith + ((horizon - zenith) * t >> 8)
    sky = np.repeat(gradient[:, :, None], canvas.width, axis=2)

    if light.sun_side:
        sun_x = canvas.width // 2 + light.sun_side * stream.between(60, 240) * canvas.width // 512
        sun_y = camera.horizon * stream.between(10, 45) // 100
        radius = canvas.width * 60 // 512
        found = ellipse_metric(canvas, sun_x, sun_y, radius, radius, 0)
        if found is not None:
            y, x, metric = found
            glow = np.maximum(4096 - metric, 0) >> 5
            glow = np.where(metric < 300, 220, glow)
            part = sky[:, y : y + glow.shape[0], x : x + glow.shape[1]]
            glow = glow[: part.shape[1]]  # the horizon may cut it
            part += (np.array([[[255]], [[246]], [[214]]], dtype=np.int32) - part) * glow >> 8

    # Clouds lie in a plane above: the row gives the distance, the column the place across.
    distance = 40 * 256 // np.maximum(camera.horizon + 24 - rows, 8)
    v = (distance * 8 + stream.below(TILE)) & (TILE - 1)
    columns = np.arange(canvas.width, dtype=np.int32) - camera.centre
    u = columns[None, :] * (96 + distance[:, None]) * 512 // canvas.width >> 8
    u = u + stream.below(TILE)
    cloud = noise_tile(64, 5, 3)[v[:, None], u & (TILE - 1)].astype(np.int32)
    cover = np.clip((cloud + light.cloud - 128) * 5, 0, 210)
    white = np.array(mixed((250, 250, 252), light.horizon, 90), dtype=np.int32)[:, None, None]
    sky += (white - (np.maximum(cloud, 0) >> 1) - sky) * cover >> 8
    canvas.rgb[:, :height] = sky
    canvas.label[:height] = label


def draw_ground(
    canvas: Canvas,
    camera: Camera,
    street: Street,
    light: Light,
    shadow_reach: dict[tuple[int, int], int],
    labels: dict[str, int],
    stream: Stream,
) -> None:
    """Road with its markings, sidewalks, verges and grass, each pixel's place by the plane y = 0.

    Args:
        shadow_reach: {(z from, z to): cm} how far the row of lots on the sun's side throws its
            shadow into the street.
    """
    top = max(camera.horizon + 1, 0)
    if top >= canvas.height:
        return
    rows = np.arange(top, canvas.height, dtype=np.int32)
    z = camera.focal * camera.height // (rows - camera.horizon)
    columns = np.arange(canvas.width, dtype=np.int32) - camera.centre
    scale = (z << 8) // camera.focal
    x = columns[None, :] * scale[:, None] >> 8
    z2 = z[:, None]

    right = x - street.road[1]
    left = street.road[0] - x
    beyond = np.maximum(left, right)  # cm outside the kerb; negative on the road
    side = (right > left).astype(np.int32)
    verge = np.array(street.verge, dtype=np.int32)[side]
    walk = np.array(street.walk, dtype=np.int32)[side] + verge
    c0, c1 = street.crossing
    on_crossing = (z >= c0) & (z < c1)
    beside = ((z >= c0 - 220) & (z < c1 + 220)) if c1 else on_crossing

    is_road = (beyond < 0) | on_crossing[:, None]
    is_walk = ~is_road & ((beyond < walk) & (beyond >= verge) | beside[:, None])

    near = (128 - (canvas.haze_share(z) >> 1)).astype(np.int16)[:, None]  # 128: no haze at all
    ox, oz = stream.below(TILE), stream.below(TILE)
    fine = noise_tile(8, 3)[((z2 >> 1) + oz) & (TILE - 1), ((x >> 1) + ox) & (TILE - 1)]
    coarse = noise_tile(128, 4, 1)[((z2 >> 2) + oz) & (TILE - 1), ((x >> 2) + ox) & (TILE - 1)]
    worn = (fine * near >> 10) + (coarse >> 3)  # texture fades with the distance

    tone = worn + np.int16(street.road_tone)
    # Tyres polish two tracks in each lane; a patch or two of newer asphalt.
    tracks = np.abs((x - street.lanes[0]) % 330 - 165)
    tone -= ((tracks >= 80) & (tracks < 120)) * np.int16(6)
    for _ in range(stream.between(0, 3)):
        px, pz = stream.between(*street.road), stream.between(450, 2600)
        pw, pl = stream.between(60, 220), stream.between(120, 700)
        tone -= ((np.abs(x - px) < pw) & (np.abs(z2 - pz) < pl)) * np.int16(13)
    joint = ((x + 5000) % street.tile < 5) | ((z2 + 100) % street.tile < 6)
    kerb = (beyond >= verge) & (beyond < verge + 18) & ~beside[:, None]
    slabs = worn + np.int16(street.walk_tone) - joint * (near >> 3) + kerb * np.int16(22)
    grey = np.where(is_walk, slabs, tone)

    white = np.zeros(x.shape, dtype=bool)
    dashes = (z2 + stream.below(900)) % 900 < 330
    for line in street.lanes:
        white |= (np.abs(x - line) < 9) & dashes
    for edge, sign in ((street.road[0], 1), (street.road[1], -1)):
        white |= np.abs(x - edge - sign * 26) < 8
    if c1:
        white &= (z2 < c0 - 420) | (z2 > c1 + 420)
        stripes = (beyond < -30) & ((x + 4000) % 100 < 50)
        for start in (c0 - 400, c1 + 60):
            white |= stripes & (z2 >= start) & (z2 < start + 300)
    white &= is_road & (fine > -88)  # paint wears off
    grey += white * ((224 - grey) * np.int16(105) >> 7)

    is_grass = ~is_road & ~is_walk
    blades = (fine >> 2) + (coarse >> 2)
    tint = np.int16(stream.between(-14, 14))
    blue = np.where(is_walk, np.int16(-12), np.int16(4))
    rgb = np.empty((3,) + x.shape, dtype=np.int16)
    rgb[0] = np.where(is_grass, blades + (96 + tint), grey - (blue >> 1))
    rgb[1] = np.where(is_grass, blades + np.int16(128), grey)
    rgb[2] = np.where(is_grass, (blades >> 1) + np.int16(62), grey + blue)

    if light.sun_side:
        shade = np.zeros(x.shape, dtype=bool)
        from_wall = (x - street.front(light.sun_side)) * -light.sun_side + (coarse >> 2)
        for (z0, z1), reach in shadow_reach.items():
            shade |= (z2 >= z0) & (z2 < z1) & (from_wall < reach)
        np.copyto(rgb, rgb * np.int16(light.shadow >> 1) >> 7, where=shade)

    haze = np.array(canvas.haze, dtype=np.int16)[:, None, None]
    canvas.rgb[:, top:] = rgb + ((haze - rgb) * (128 - near) >> 7)
    label = np.where(is_road, np.uint8(labels["road"]), np.uint8(labels["grass"]))
    canvas.label[top:] = np.where(is_walk, np.uint8(labels["sidewalk"]), label)
