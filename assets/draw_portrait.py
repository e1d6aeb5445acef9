"""Draws `docs/pictures/sitter.jpg`: a friendly head and shoulders, sculpted from smooth solids, lit like in a studio.

Run it as `python assets/draw_portrait.py docs/pictures/sitter.jpg`; it needs numpy and Pillow, and a minute or two.

The picture plane is x, y in -1..1 with y up; z points at the viewer and the view is parallel along z. A solid is a
signed distance function: negative inside, positive outside, in those units (I. Quilez, "distance functions").
"""

from __future__ import annotations

import argparse

import numpy as np

SIZE, OVERSAMPLING = 480, 4
ZOOM, LIFT = 0.9, 0.02  # half the picture's height, and the height of its middle
NEAR, FAR = 0.8, -0.75  # where a ray along z starts and where it has missed everything

SKIN, EYE, HAIR, SHIRT = range(4)

Array = np.ndarray


def smooth_min(a: Array, b: Array, k: float) -> Array:
    """Union of two solids with a fillet of about `k`."""
    h = np.maximum(k - np.abs(a - b), 0) / k
    return np.minimum(a, b) - h * h * k / 4


def smooth_max(a: Array, b: Array, k: float) -> Array:
    """Intersection of two solids with a fillet of about `k`; with `-b` it carves `b` out of `a`."""
    return -smooth_min(-a, -b, k)


def ellipsoid(p: Array, centre: tuple, radii: tuple) -> Array:
    """Distance (a bound near the surface) of points `p` (3 n) to an ellipsoid."""
    q = p - np.float32(centre)[:, None]
    r = np.float32(radii)[:, None]
    near, far = np.sqrt(((q / r) ** 2).sum(0)), np.sqrt(((q / r**2) ** 2).sum(0))
    return near * (near - 1) / np.maximum(far, 1e-6)


def capsule(p: Array, start: tuple, stop: tuple, r0: float, r1: float) -> Array:
    """A rounded rod from `start` to `stop` whose radius goes from `r0` to `r1`."""
    a, axis = np.float32(start)[:, None], np.float32(stop) - np.float32(start)
    t = np.clip(axis @ (p - a) / (axis @ axis), 0, 1)
    return np.sqrt(((p - a - axis[:, None] * t) ** 2).sum(0)) - (r0 + (r1 - r0) * t)


def smoothstep(low: float, high: float, x: Array) -> Array:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


# The face's own measures. Left and right are mirror images, so most solids are given `m`, the points with |x|.

EYE_CENTRE, EYE_RADIUS = (0.142, 0.125, 0.262), 0.078


def eye_opening(x: Array) -> tuple[Array, Array]:
    """Upper and lower edge of an eye's opening, relative to the eye's centre, at |x|."""
    u = np.clip((x - EYE_CENTRE[0]) / 0.074, -1, 1)
    return 0.036 * (1 - u**2) + 0.006 * u, -0.029 * (1 - u**2) + 0.006 * u


def mouth(x: Array) -> tuple[Array, Array, Array]:
    """Upper edge of the upper lip, the line between the lips and the lower edge of the lower lip at |x|."""
    line = -0.208 + 2.9 * x**2
    u = np.clip(x / 0.112, 0, 1)
    upper = line + 0.037 * (1 - u**1.7) - 0.008 * np.exp(-((x / 0.018) ** 2))
    return upper, line, line - 0.046 * (1 - u**2.2)


def skin_solid(p: Array, m: Array) -> Array:
    x, y, z = m
    head = ellipsoid(m, (0, 0.20, -0.04), (0.355, 0.40, 0.40))
    head = smooth_min(head, ellipsoid(m, (0, -0.08, 0.06), (0.255, 0.31, 0.28)), 0.16)
    head = smooth_min(head, ellipsoid(m, (0.165, -0.02, 0.21), (0.11, 0.10, 0.11)), 0.12)
    head = smooth_min(head, ellipsoid(m, (0, -0.335, 0.215), (0.075, 0.055, 0.075)), 0.12)
    head = smooth_max(head, -ellipsoid(m, (0.142, 0.125, 0.38), (0.105, 0.07, 0.09)), 0.10)
    nose = capsule(m, (0, 0.15, 0.315), (0, 0.005, 0.395), 0.026, 0.040)
    nose = smooth_min(nose, ellipsoid(m, (0, -0.012, 0.402), (0.050, 0.044, 0.050)), 0.05)
    nose = smooth_min(nose, ellipsoid(m, (0.045, -0.025, 0.362), (0.031, 0.027, 0.036)), 0.03)
    head = smooth_min(head, nose, 0.06)

    upper, line, lower = mouth(x)
    inside = smoothstep(0.125, 0.085, x)
    lips = 0.012 * smoothstep(0.022, -0.014, y - upper) * smoothstep(-0.020, 0.016, y - lower)
    groove = 0.020 * np.exp(-(((y - line) / 0.0075) ** 2))
    philtrum = 0.004 * np.exp(-((x / 0.014) ** 2)) * smoothstep(-0.17, -0.14, y) * smoothstep(-0.07, -0.10, y)
    head = head - np.where(z > 0, (lips - groove) * inside - philtrum, 0)

    top, bottom = eye_opening(x)
    lid = ellipsoid(m, EYE_CENTRE, (EYE_RADIUS + 0.010,) * 3)
    from_eye = y - EYE_CENTRE[1]
    lid = smooth_max(lid, -np.maximum(from_eye - top, bottom - from_eye), 0.006)
    head = smooth_min(head, lid, 0.040)

    ear = ellipsoid(m, (0.355, 0.08, -0.06), (0.05, 0.10, 0.06))
    neck = capsule(p, (0, -0.20, -0.10), (0, -0.62, -0.14), 0.155, 0.18)
    chest = ellipsoid(p, (0, -0.92, -0.12), (0.62, 0.40, 0.27))
    return smooth_min(smooth_min(head, ear, 0.03), smooth_min(neck, chest, 0.20), 0.05)


def hair_solid(p: Array, m: Array) -> Array:
    """A long bob combed from a parting: every strand keeps its depth as it falls, so `z` numbers the strands."""
    x, y, z = p
    hair = ellipsoid(p, (0, 0.26, -0.08), (0.425, 0.425, 0.43))
    locks = capsule(m, (0.29, 0.20, -0.12), (0.33, -0.33, -0.15), 0.125, 0.125)
    locks = smooth_min(locks, ellipsoid(m, (0.27, -0.40, -0.13), (0.135, 0.135, 0.14)), 0.10)
    hair = smooth_min(hair, locks, 0.22)
    hair = smooth_min(hair, ellipsoid(p, (0, -0.15, -0.30), (0.40, 0.46, 0.16)), 0.05)
    # The face's opening: an oval whose top leans towards the parting.
    lean = x - 0.30 * np.clip(y - 0.05, 0, 1) ** 1.5
    oval = np.sqrt((lean / 0.30) ** 2 + ((y + 0.03) / 0.47) ** 2) - 1
    hair = smooth_max(hair, -np.maximum(oval * 0.30, 0.02 + 0.1 * y - z), 0.07)
    return hair - 0.0022 * strands(p)


def strands(p: Array) -> Array:
    """Fine waves, about -1..1, that follow the combing."""
    x, y, z = p
    swept = 0.6 * y + 0.45 * np.sqrt((x - 0.13) ** 2 + 0.002)  # above the forehead they run away from the parting
    comb = z + 0.04 * np.sin(4.0 * y + 2.0 * x) - swept * smoothstep(0.0, 0.4, y)
    return 0.5 * np.sin(75 * comb) + 0.3 * np.sin(133 * comb + 2 * y) + 0.2 * np.sin(291 * comb + 5 * y)


def shirt_solid(p: Array, m: Array) -> Array:
    x, y, z = p
    body = ellipsoid(m, (0, -0.92, -0.12), (0.64, 0.43, 0.31))
    body = smooth_min(body, ellipsoid(m, (0.46, -0.93, -0.14), (0.34, 0.30, 0.24)), 0.25)
    neckline = np.hypot(x, np.minimum(y + 0.50, 0)) - 0.225
    return smooth_max(body, -neckline, 0.03)


def solids(p: Array) -> Array:
    """Distances of points (3 n) to skin, eyes, hair and shirt (4 n)."""
    m = np.stack([np.abs(p[0]), p[1], p[2]])
    return np.stack(
        [skin_solid(p, m), ellipsoid(m, EYE_CENTRE, (EYE_RADIUS,) * 3), hair_solid(p, m), shirt_solid(p, m)]
    )


def nearest(p: Array) -> Array:
    return solids(p).min(0)


def seen_from(v: Array, turn: float) -> Array:
    """Points or directions (3 n) of the picture's space in the sitter's, whose head is turned by `turn` radians."""
    x, y, z = v
    return np.stack([np.cos(turn) * x - np.sin(turn) * z, y, np.sin(turn) * x + np.cos(turn) * z]).astype(np.float32)


def march(x: Array, y: Array, turn: float = 0) -> tuple[Array, Array]:
    """Follow the rays through `x`, `y` to the first surface: points (3 n) in the sitter's space and which rays hit."""
    depth = np.full_like(x, NEAR)
    active = np.arange(x.size)
    for _ in range(110):
        gap = nearest(seen_from(np.stack([x, y, depth])[:, active], turn))
        depth[active] -= 0.75 * gap
        active = active[(gap > 4e-4) & (depth[active] > FAR)]
        if not active.size:
            break
    return seen_from(np.stack([x, y, depth]), turn), depth > FAR


def normals(p: Array, step: float = 1.5e-3) -> Array:
    """Unit normals (3 n): the gradient of the distance, from four samples at a tetrahedron's corners."""
    corners = np.float32([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
    n = sum(c[:, None] * nearest(p + step * c[:, None]) for c in corners)
    return n / np.maximum(np.linalg.norm(n, axis=0), 1e-6)


def openness(p: Array, n: Array) -> Array:
    """How much of the surroundings a point sees, 0..1: shade in creases, under the chin, beside the hair."""
    shade = sum(
        (h - np.maximum(nearest(p + n * h), -0.02)) * w for h, w in ((0.02, 6), (0.06, 3.0), (0.13, 1.6), (0.25, 0.7))
    )
    return np.clip(1 - 0.9 * shade, 0.15, 1)


def sunlight(p: Array, n: Array, light: Array, softness: float = 5.0) -> Array:
    """Share of the light that reaches a point, 0..1, with a wide penumbra."""
    seen, t = np.ones_like(p[0]), 0.03
    for _ in range(14):
        seen = np.minimum(seen, 0.5 + 0.5 * softness * nearest(p + 0.012 * n + light[:, None] * t) / t)
        t *= 1.3
    seen = np.clip(seen, 0, 1)
    return seen * seen * (3 - 2 * seen)


def mix(a: Array, b: Array, t: Array) -> Array:
    return a + (b - a) * t


def colour(*rgb: float) -> Array:
    """An sRGB colour 0..255 as linear light (3 1)."""
    return (np.float32(rgb)[:, None] / 255) ** 2.2


def skin_colour(p: Array) -> Array:
    x, y, z = np.abs(p[0]), p[1], p[2]
    tone = np.broadcast_to(colour(232, 178, 146), p.shape)
    blush = np.exp(-(((x - 0.20) / 0.085) ** 2) - ((y + 0.03) / 0.075) ** 2)
    warm = np.exp(-((x / 0.06) ** 2) - ((y + 0.01) / 0.05) ** 2)
    tone = mix(tone, colour(222, 120, 104), 0.40 * blush + 0.30 * warm * (z > 0.2))
    nostril = np.exp(-(((x - 0.025) / 0.012) ** 2) - ((y + 0.047) / 0.008) ** 2) * (z > 0.2)
    tone = mix(tone, colour(110, 52, 46), 0.75 * nostril)
    upper, line, lower = mouth(x)
    lips = (
        smoothstep(0.004, -0.004, y - upper)
        * smoothstep(-0.005, 0.005, y - lower)
        * smoothstep(0.112, 0.100, x)
        * (z > 0)
    )
    tone = mix(tone, colour(196, 88, 88), 0.85 * lips)
    between = np.exp(-(((y - line) / 0.0045) ** 2)) * smoothstep(0.118, 0.095, x) * (z > 0)
    tone = mix(tone, colour(92, 28, 32), 0.85 * between)

    u = np.clip((x - 0.140) / 0.092, -1.1, 1.1)
    brow = 0.262 - 0.030 * u**2 + 0.004 * u
    thick = 0.0145 * np.clip(1 - 0.75 * (u + 0.1), 0.35, 1.0)
    tone = mix(
        tone,
        colour(74, 44, 32),
        0.85 * smoothstep(0.006, -0.006, np.abs(y - brow) - thick) * smoothstep(1.08, 0.7, np.abs(u)) * (z > 0),
    )

    top, bottom = eye_opening(x)
    along = smoothstep(0.082, 0.070, np.abs(x - EYE_CENTRE[0])) * (z > 0.2)
    tone = mix(tone, colour(40, 22, 20), 0.95 * along * np.exp(-(((y - EYE_CENTRE[1] - top - 0.003) / 0.0065) ** 2)))
    tone = mix(tone, colour(150, 90, 80), 0.45 * along * np.exp(-(((y - EYE_CENTRE[1] - bottom) / 0.006) ** 2)))
    return tone


def eye_colour(p: Array) -> Array:
    r = np.hypot(np.abs(p[0]) - EYE_CENTRE[0] + 0.003, p[1] - EYE_CENTRE[1] - 0.004)
    tone = np.broadcast_to(colour(244, 240, 238), p.shape)
    iris = mix(colour(96, 150, 168), colour(28, 62, 84), smoothstep(0.018, 0.042, r))
    tone = mix(tone, iris, smoothstep(0.0430, 0.0400, r))
    return mix(tone, colour(10, 10, 14), smoothstep(0.0200, 0.0175, r))


def hair_colour(p: Array) -> Array:
    return mix(colour(66, 36, 24), colour(116, 68, 42), 0.5 + 0.5 * strands(p))


def shirt_colour(p: Array) -> Array:
    return np.broadcast_to(colour(38, 92, 118), p.shape)


def backdrop(x: Array, y: Array) -> Array:
    """A cool wall, lighter behind the head (3 n)."""
    glow = np.exp(-((x + 0.12) ** 2 + (y - 0.22) ** 2) / 0.75)
    return mix(colour(70, 104, 138), colour(188, 212, 226), glow)


def unit(*v: float) -> Array:
    return np.float32(v) / np.linalg.norm(v)


def shade(x: Array, y: Array, turn: float = 0) -> Array:
    """Colour, linear 0..1 (3 n), of the picture's points `x`, `y` (n); `turn` is the sitter's, in radians."""
    picture = backdrop(x, y)
    p, hit = march(x, y, turn)
    p = p[:, hit]
    if not p.size:
        return picture
    n, what = normals(p), solids(p).argmin(0)
    albedo = np.choose(what, [skin_colour(p), eye_colour(p), hair_colour(p), shirt_colour(p)])

    key, fill, rim, view = (
        seen_from(unit(*v), turn)
        for v in ((-0.55, 0.62, 0.80), (0.8, 0.1, 0.6), (0.75, 0.45, -0.65), (0, 0, 1))  # the last: towards the viewer
    )
    open_, lit = openness(p, n), sunlight(p, n, key)
    wrap = np.where(what == SKIN, 0.25, 0.0)  # light that skin scatters past the terminator
    facing = np.clip((key @ n + wrap) / (1 + wrap), 0, 1)
    light = colour(255, 238, 218) * 1.35 * facing * lit
    light = light + colour(190, 214, 255) * 0.30 * np.clip(fill @ n, 0, 1) * open_
    light = light + mix(colour(170, 150, 140), colour(216, 228, 255), 0.5 + 0.5 * n[1]) * 0.36 * open_
    bleed = np.where(what == SKIN, 0.10 * np.exp(-(((key @ n) / 0.30) ** 2)), 0) * open_
    light = light + colour(255, 96, 60) * bleed

    half = (key + view) / np.linalg.norm(key + view)
    gloss, sharp = np.float32([0.10, 1.3, 0.16, 0.03])[what], np.float32([22, 260, 26, 12])[what]
    shine = gloss * np.clip(half @ n, 0, 1) ** sharp * np.where(what == EYE, 1, lit)
    edge = np.float32([0.16, 0.0, 0.30, 0.14])[what] * np.clip(1 - view @ n, 0, 1) ** 3 * np.clip(rim @ n + 0.3, 0, 1)
    picture[:, hit] = albedo * light + shine + edge * colour(214, 232, 255)
    return picture


def draw(size: int, oversampling: int, turn: float = 0) -> Array:
    """The portrait: uint8, `h w c`; every pixel is the mean of `oversampling` squared rays. `turn` is in radians."""
    fine = size * oversampling
    axis = ZOOM * ((np.arange(fine, dtype=np.float32) + 0.5) / fine * 2 - 1)
    rows = []
    for row in range(size):  # one row of pixels at a time keeps the memory small
        y, x = np.meshgrid(LIFT - axis[row * oversampling : (row + 1) * oversampling], axis, indexing="ij")
        light = 1 - np.exp(-1.35 * shade(x.ravel(), y.ravel(), turn))  # a film's shoulder: highlights never clip
        light = np.clip(light / (1 - np.exp(-1.35)), 0, 1)
        rows.append(light.reshape(3, oversampling, size, oversampling).mean(axis=(1, 3)))
    picture = np.stack(rows, axis=1) ** (1 / 2.2)
    return (picture.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)


def main() -> None:
    from PIL import Image

    arguments = argparse.ArgumentParser(description="Draw the sitter of the pages' pictures.")
    arguments.add_argument("output", help="where to write it, for example docs/pictures/sitter.jpg")
    arguments.add_argument("--size", type=int, default=SIZE)
    arguments.add_argument("--oversampling", type=int, default=OVERSAMPLING)
    chosen = arguments.parse_args()
    Image.fromarray(draw(chosen.size, chosen.oversampling)).save(
        chosen.output, optimize=True, quality=92, subsampling=0
    )


if __name__ == "__main__":
    main()
