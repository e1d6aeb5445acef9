"""Draws a person, back to front, for all frames of a film at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .backgrounds import draw_background
from .canvas import Canvas, Window, column, ellipse
from .people import Person
from .scenes import DrawnScene

# Lengths in heights of the frame, for someone of size 1.
MOUTH_BELOW = 0.122  # the mouth's middle below the face's
MOUTH_HEIGHT = 0.094  # of the widest opening
MOUTH_WIDTH = (0.034, 0.034)  # half the width when rounded, and the extra when spread
LIP = 0.013
EYES_ABOVE = 0.030
NECK = 0.058  # visible between chin and shoulders
DARK = (0.13, 0.03, 0.05)  # the inside of a mouth
TURN_DEPTH = 0.055  # how far the features move when the head turns by 1
HEAD = ("x", "y", "turn", "nod", "tilt")  # columns of a head track


class _Head(NamedTuple):
    """The head's pose in each frame: tracks ``f``."""

    x: np.ndarray
    y: np.ndarray
    turn: np.ndarray
    nod: np.ndarray
    tilt: np.ndarray


def head_track(frames: int, fps: float, seed: int) -> np.ndarray:
    """A slow, smooth head motion: ``f 5``, the columns of `HEAD`.

    x and y are in heights of the frame, turn and nod about -1..1, tilt in radians.
    """
    rng = np.random.default_rng([seed, 5])
    seconds = np.arange(frames)[:, None] / fps
    rates = rng.uniform((0.10, 0.30, 0.6), (0.30, 0.6, 1.0), (5, 3))
    swings = sum(
        weight * np.sin(2 * np.pi * rates[:, i] * seconds + rng.uniform(0, 2 * np.pi, 5))
        for i, weight in enumerate((0.6, 0.35, 0.12))
    )
    reach = rng.uniform(0.5, 1.0, 5) * (0.022, 0.012, 0.65, 0.6, 0.07)
    return (swings * reach).astype(np.float32)


def blink_track(frames: int, fps: float, seed: int) -> np.ndarray:
    """How far the eyes are closed, ``f`` in 0..1: a blink every two to five seconds."""
    rng = np.random.default_rng([seed, 6])
    seconds, closed, moment = np.arange(frames) / fps, np.zeros(frames), rng.uniform(0.3, 3)
    while moment < frames / fps + 1:
        closed = np.maximum(closed, 1.3 - np.abs(seconds - moment) / 0.08)
        moment += rng.uniform(2, 5)
    return np.clip(closed, 0, 1).astype(np.float32)


def draw_frames(
    person: Person,
    scene: DrawnScene,
    mouth: np.ndarray,
    head: np.ndarray,
    blink: np.ndarray,
    size: tuple[int, int] = (96, 144),
) -> np.ndarray:
    """Draws a person in front of a scene: ``f h w 3`` in 0..1, float32.

    The tracks: mouth ``f 2`` in 0..1, head ``f 5`` as `head_track` makes it, blink ``f`` in 0..1.
    """
    canvas = Canvas(len(mouth), *size)
    draw_background(canvas, scene)
    pose = _pose(person, head)
    _draw_hair_behind(canvas, person, pose)
    _draw_body(canvas, person, pose)
    _draw_face(canvas, person, pose, mouth)
    _draw_eyes(canvas, person, pose, blink)
    _draw_nose(canvas, person, pose)
    _draw_mouth(canvas, person, pose, mouth)
    _draw_hair_in_front(canvas, person, pose)
    return canvas.planes.clip(0, 1).transpose(1, 2, 3, 0)


def face_boxes(person: Person, head: np.ndarray, size: tuple[int, int] = (96, 144)) -> np.ndarray:
    """The box around the face, fringe to chin, in each frame: ``f 4``, x0 y0 x1 y1 in pixels, float32."""
    pose, (height, width) = _pose(person, head), size
    half_width, half_height = person.size * person.face_width, person.size * person.face_height
    sides = (pose.x - half_width, pose.y - 0.85 * half_height, pose.x + half_width, pose.y + half_height)
    pixels = np.stack(sides, 1) * height + np.array([width, height, width, height]) / 2
    return np.clip(pixels, 0, [width, height, width, height]).astype(np.float32)


def face_points(person: Person, head: np.ndarray, size: tuple[int, int] = (96, 144)) -> np.ndarray:
    """Eyes, nose and corners of the mouth at rest in each frame: ``f 5 2``, x and y in pixels, left to right."""
    pose, (height, width) = _pose(person, head), size
    corner = MOUTH_WIDTH[0] + 0.5 * MOUTH_WIDTH[1]
    places = ((-person.eye_gap, -EYES_ABOVE), (person.eye_gap, -EYES_ABOVE), (0.0, 0.035))
    places += ((-corner, MOUTH_BELOW), (corner, MOUTH_BELOW))
    depths = (1.0, 1.0, 1.5, 1.0, 1.0)
    points = []
    for (u, v), depth in zip(places, depths, strict=True):
        u, v = _on_face(person, pose, u, v, depth)
        points.append(
            np.stack(
                [
                    pose.x + u * np.cos(pose.tilt) - v * np.sin(pose.tilt),
                    pose.y + u * np.sin(pose.tilt) + v * np.cos(pose.tilt),
                ],
                1,
            )
        )
    return (np.stack(points, 1) * height + np.array([width, height]) / 2).astype(np.float32)


def _pose(person: Person, head: np.ndarray) -> _Head:
    x, y, turn, nod, tilt = head.T.astype(np.float32)
    return _Head(person.x + x, person.y + y, turn, nod, tilt)


def _on_face(person: Person, pose: _Head, u: float, v: float, depth: float = 1.0):
    """A point of the face relative to its middle, after the head's turn and nod: two tracks ``f``."""
    swing = depth * TURN_DEPTH * pose.turn
    narrower = 1 - 0.10 * pose.turn**2
    return person.size * (u * narrower + swing), person.size * (v + depth * 0.022 * pose.nod)


def _around(canvas: Canvas, person: Person, pose: _Head, u: float, v: float, reach: tuple[float, float], depth=1.0):
    """A window around a point of the face, with coordinates that rotate with the head, in lengths of size 1."""
    along, down = _on_face(person, pose, u, v, depth)
    cos, sin = np.cos(pose.tilt), np.sin(pose.tilt)
    x, y = pose.x + along * cos - down * sin, pose.y + along * sin + down * cos
    window = canvas.window(x, y, reach[0] * person.size, reach[1] * person.size, pose.tilt)
    return window._replace(u=window.u / np.float32(person.size), v=window.v / np.float32(person.size))


def _egg(person: Person, window: Window, grow: float = 1.0, chin: np.ndarray | float = 0.0) -> np.ndarray:
    """Distance to the outline of the face: an ellipse, narrower at the chin."""
    v = window.v - column(chin) * (window.v > 0)
    narrowing = 1 - person.jaw * np.clip(window.v / person.face_height, -0.3, 1)
    return ellipse(window.u / narrowing, v, person.face_width * grow, person.face_height * grow)


def _draw_hair_behind(canvas: Canvas, person: Person, pose: _Head) -> None:
    """The hair that is visible around and below the head."""
    width, height = person.face_width, person.face_height
    window = _around(canvas, person, pose, 0, 0, (0.34, 0.62), -0.3)
    u, v = window.u, window.v
    if person.hair_style == "long":
        shape = np.maximum(
            ellipse(u, v + 0.045, width * 1.24, height * 1.06),
            np.minimum(width * 1.22 + 0.04 * np.sin(6 * v + 0.5) - np.abs(u), np.minimum(v + 0.03, 0.40 - v)),
        )
    elif person.hair_style == "bobbed":
        shape = np.maximum(
            ellipse(u, v + 0.045, width * 1.26, height * 1.06),
            np.minimum(width * 1.28 - np.abs(u) + 0.02 * v, np.minimum(v + 0.03, height * 0.72 - v)),
        )
    elif person.hair_style == "curly":
        shape = ellipse(u, v + 0.07, width * 1.30, height * 1.04)
        for angle in np.linspace(-0.12, np.pi + 0.12, 9):
            at = (np.cos(angle) * width * 1.22, -0.06 - np.sin(angle) * height * 0.98)
            shape = np.maximum(shape, ellipse(u - at[0], v - at[1], 0.062, 0.062))
    elif person.hair_style == "tied":
        shape = np.maximum(
            ellipse(u, v + 0.035, width * 1.10, height * 1.04), ellipse(u, v + height * 1.27, 0.072, 0.066)
        )
    else:
        shape = ellipse(u, v + 0.05, width * 1.12, height * 1.06)
    canvas.paint(window, person.hair.rgb, canvas.cover(shape * np.float32(person.size)), 0.80)


def _draw_body(canvas: Canvas, person: Person, pose: _Head) -> None:
    """Neck, shoulders and the neckline. The body follows the head a little."""
    x, y, size = person.x + 0.3 * (pose.x - person.x), person.y + 0.3 * (pose.y - person.y), person.size
    chin = person.face_height * size
    window = canvas.window(x, y + chin + 0.33, person.shoulders + 0.02, 0.33)
    u, v = window.u, window.v + np.float32(0.33 - NECK)  # v: below the shoulders' top
    slope = ellipse(u, v - 0.30, person.shoulders, 0.30)
    shirt = np.where(v > 0.30, person.shoulders - np.abs(u), slope)
    fold = 1 - 0.10 * np.clip(np.abs(u) / person.shoulders, 0, 1) ** 2
    canvas.paint(window, person.clothes.rgb, canvas.cover(shirt), fold)
    neck_half = person.face_width * 0.52 * size
    neck = canvas.window(0.5 * (x + pose.x), y + chin + 0.01, neck_half, 0.17)
    cover = canvas.cover(neck_half - np.abs(neck.u)) * canvas.cover(NECK + 0.04 - neck.v)
    shadow = 0.80 + 0.12 * np.clip(neck.v / 0.12, 0, 1)
    canvas.paint(neck, person.skin.rgb, cover, shadow)
    if person.neckline == "high":
        collar = canvas.window(0.5 * (x + pose.x), y + chin + NECK + 0.015, neck_half + 0.02, 0.07)
        shape = np.minimum(neck_half + 0.012 + 0.15 * np.clip(collar.v, 0, None) - np.abs(collar.u), 0.045 + collar.v)
        canvas.paint(collar, person.clothes.rgb, canvas.cover(shape), 0.88)
    else:
        depth = 0.060 if person.neckline == "round" else 0.095
        skin = canvas.window(x, y + chin + NECK + 0.04, neck_half + 0.01, depth)
        below = np.clip(skin.v, 0, None)
        if person.neckline == "round":
            shape = ellipse(skin.u, below, neck_half, depth)
        else:
            shape = (neck_half * (1 - below / depth) - np.abs(skin.u)) * 0.8
        cover = canvas.cover(shape) * canvas.cover(skin.v + 0.02)
        canvas.paint(skin, person.skin.rgb, cover, 0.92)


def _draw_face(canvas: Canvas, person: Person, pose: _Head, mouth: np.ndarray) -> None:
    """Ears and earrings, then the face itself, lit slightly from one side, with a blush."""
    skin = person.skin.rgb
    for side in (-1, 1):
        ear = _around(canvas, person, pose, side * person.face_width * 0.98, 0.0, (0.03, 0.05), -0.25)
        if person.hair_style in ("short", "swept", "tied"):
            canvas.paint(ear, skin, canvas.cover(ellipse(ear.u, ear.v, 0.024, 0.042)), 0.90)
        if person.earrings:
            ring = _around(canvas, person, pose, side * person.face_width * 0.99, 0.062, (0.03, 0.03), -0.25)
            canvas.paint(ring, person.earrings.rgb, canvas.cover(ellipse(ring.u, ring.v, 0.017, 0.019)))
    window = _around(canvas, person, pose, 0, 0, (person.face_width + 0.01, person.face_height + 0.04), 0.0)
    outline = _egg(person, window, chin=0.016 * mouth[:, 0])
    light = 1.0 - 0.10 * np.clip(window.u / person.face_width + 0.6 * column(pose.turn), -0.2, 1)
    canvas.paint(window, skin, canvas.cover(outline * np.float32(person.size)), light)
    red = (min(1.0, skin[0] * 1.04), skin[1] * 0.66, skin[2] * 0.66)
    for side in (-1, 1):
        cheek = _around(canvas, person, pose, side * 0.088, 0.055, (0.06, 0.05))
        glow = np.exp(-((cheek.u / 0.035) ** 2) - (cheek.v / 0.026) ** 2)
        canvas.paint(cheek, red, person.blush * glow)


def _draw_eyes(canvas: Canvas, person: Person, pose: _Head, blink: np.ndarray) -> None:
    """White, iris, pupil and a spark of light; lids that close; brows."""
    half_width, half_height = 0.037 * person.eye_size, 0.026 * person.eye_size
    lash = tuple(0.35 * channel for channel in person.skin.rgb)
    brow = tuple(0.65 * channel for channel in person.hair.rgb)
    for side in (-1, 1):
        eye = _around(canvas, person, pose, side * person.eye_gap, -EYES_ABOVE, (0.06, 0.045))
        u, v = eye.u, eye.v - np.float32(side * person.eye_tilt) * eye.u
        open_height = np.maximum(half_height * (1 - blink), 0.001)
        opening = ellipse(u, v, half_width, open_height)
        rim = canvas.cover(ellipse(u, v + 0.003, half_width + 0.005, open_height + 0.006))
        canvas.paint(eye, lash, rim)
        white = canvas.cover(opening) * column(1 - blink)
        canvas.paint(eye, (0.97, 0.97, 0.96), white)
        look = np.float32(0.010) * column(pose.turn)
        iris = white * canvas.cover(ellipse(u - look, v, 0.0215, 0.0235))
        canvas.paint(eye, person.eyes.rgb, iris)
        canvas.paint(eye, (0.05, 0.05, 0.07), white * canvas.cover(ellipse(u - look, v, 0.0105, 0.0115)))
        canvas.paint(eye, (1, 1, 1), white * canvas.cover(ellipse(u - look + 0.006, v + 0.008, 0.005, 0.005)))
        arch = _around(canvas, person, pose, side * person.eye_gap, -EYES_ABOVE - person.brow_height, (0.07, 0.05))
        bent = arch.v + np.float32(side * person.brow_tilt) * arch.u - 7 * arch.u**2
        canvas.paint(arch, brow, canvas.cover(ellipse(arch.u, bent, 0.046, person.brow_weight)))


def _draw_nose(canvas: Canvas, person: Person, pose: _Head) -> None:
    """A shadow under the tip, and a soft one along the bridge."""
    skin = person.skin.rgb
    tip = _around(canvas, person, pose, 0, 0.048, (0.04, 0.03), 1.5)
    shape = ellipse(tip.u, tip.v - 4 * tip.u**2, 0.020 * person.nose, 0.009)
    canvas.paint(tip, tuple(0.72 * channel for channel in skin), canvas.cover(shape))
    bridge = _around(canvas, person, pose, 0.010, 0.010, (0.03, 0.06), 1.3)
    soft = np.exp(-((bridge.u / 0.010) ** 2) - (bridge.v / 0.034) ** 2)
    canvas.paint(bridge, tuple(0.84 * channel for channel in skin), 0.8 * soft)


def _draw_mouth(canvas: Canvas, person: Person, pose: _Head, mouth: np.ndarray) -> None:
    """Lips around a dark opening of this height and width; a closed mouth is a line."""
    height, width = mouth.T.astype(np.float32)
    half_height = 0.5 * MOUTH_HEIGHT * height
    half_width = MOUTH_WIDTH[0] + MOUTH_WIDTH[1] * width
    window = _around(canvas, person, pose, 0, MOUTH_BELOW, (0.11, 0.085))
    size = np.float32(person.size)
    corners = column(0.013 * person.smile * (1 - 0.7 * height)) * (window.u / column(half_width)) ** 2
    u, v = window.u, window.v + np.minimum(corners, 0.022) - 0.25 * column(half_height)  # the lower lip moves more
    lips = ellipse(u, v, half_width + 0.006, half_height + LIP)
    canvas.paint(window, person.lips, canvas.cover(lips * size))
    line = ellipse(u, v, half_width - 0.004, 0.004)
    canvas.paint(window, tuple(0.55 * channel for channel in person.lips), canvas.cover(line * size))
    opening = canvas.cover(ellipse(u, v, half_width - 0.006, np.maximum(half_height, 0.003)) * size)
    canvas.paint(window, DARK, opening * np.minimum(1, column(half_height) * size * canvas.height))


def _draw_hair_in_front(canvas: Canvas, person: Person, pose: _Head) -> None:
    """The fringe: the top of the head down to a hairline whose shape depends on the style."""
    window = _around(canvas, person, pose, 0, 0, (person.face_width * 1.2, person.face_height * 1.35), 0.25)
    u, across = window.u, window.u / np.float32(person.face_width)
    line = -person.fringe * person.face_height
    if person.hair_style == "tied":
        line = line - 0.03 + 0.11 * across**2
    elif person.hair_style == "bobbed":
        line = line + 0.025 * across**2
    elif person.hair_style == "swept":
        line = line + 0.045 * np.sign(person.parting) * across
    elif person.hair_style == "curly":
        line = line + 0.009 * np.cos(11 * across + 3 * person.parting)
    else:  # parted: two wings at the sides of the parting
        line = line - 0.035 + 0.075 * np.minimum(np.abs(across - 0.5 * person.parting), 1.2)
    cap = ellipse(u, window.v + 0.045, person.face_width * 1.10, person.face_height * 1.05)
    shape = np.minimum(cap, line - window.v)
    shine = 1 + 0.16 * np.exp(-(((window.v + 0.72 * person.face_height) / 0.035) ** 2) - (across + 0.3) ** 2 / 0.2)
    canvas.paint(window, person.hair.rgb, canvas.cover(shape * np.float32(person.size)), shine)
