"""Draws the scenes, in smooth gradients that an 8 x 8 latent can represent."""

from __future__ import annotations

import numpy as np

from ...clips import FPS
from .canvas import Canvas, column, smooth_step
from .scenes import DrawnScene

WRAP = 2.2  # heights of the frame after which drifting clouds wrap around


def draw_background(canvas: Canvas, scene: DrawnScene) -> None:
    """Fills the canvas with a scene; frame 0 is the same whether it moves or not."""
    frames = canvas.planes.shape[1]
    seconds = np.arange(frames if scene.moving else 1, dtype=np.float32) / FPS * scene.speed * scene.direction
    amount = DRAW[scene.kind](canvas, scene, column(seconds))
    for plane, base, accent in zip(canvas.planes, scene.colour.rgb, scene.accent, strict=True):
        plane[:] = np.float32(base) + amount * np.float32(accent - base)


def _waves(canvas: Canvas, scene: DrawnScene, seconds: np.ndarray) -> np.ndarray:
    """Bands that roll upwards or downwards along a winding line: amount of accent colour, ``f h w``."""
    a, b = scene.phases[:2]
    bend = 1.1 * np.sin(4.5 * canvas.x * scene.scale + a + 0.8 * seconds)
    return 0.5 + 0.5 * np.sin(15 * canvas.y * scene.scale + bend + b + 4.2 * seconds)


def _lights(canvas: Canvas, scene: DrawnScene, seconds: np.ndarray) -> np.ndarray:
    """Soft lamps that brighten and fade."""
    total: np.ndarray | float = 0.0
    for (x, y), phase in zip(scene.places, scene.phases, strict=True):
        bright = 0.60 + 0.40 * np.sin(phase + 6.5 * seconds)
        radius = 0.075 * scene.scale
        total = total + bright * _spot(canvas, x, y - 0.5, radius, radius)
    return 1.6 * np.minimum(total, 1.0)


def _flag(canvas: Canvas, scene: DrawnScene, seconds: np.ndarray) -> np.ndarray:
    """Broad stripes of a cloth in the wind, its folds running sideways."""
    fold = 6.0 * canvas.x * scene.scale + scene.phases[0] - 6.0 * seconds
    stripes = 11.0 * (canvas.y + 0.045 * np.sin(fold)) * scene.scale + scene.phases[1]
    return smooth_step(0.5 + 0.9 * np.sin(stripes)) + 0.28 * np.cos(fold)


def _clouds(canvas: Canvas, scene: DrawnScene, seconds: np.ndarray) -> np.ndarray:
    """Puffs that drift sideways."""
    total: np.ndarray | float = 0.0
    for i, (x, y) in enumerate(scene.places):
        width = 0.17 * scene.scale * (1 + 0.25 * np.sin(scene.phases[i]))
        at = (x * WRAP / 2 + 0.36 * seconds + WRAP / 2) % WRAP - WRAP / 2
        total = total + _spot(canvas, at, y * 1.5 - 0.5, width, 0.075 * scene.scale)
    return 1.5 * np.minimum(total, 1.0)


def _spot(canvas: Canvas, x, y, half_width: float, half_height: float) -> np.ndarray:
    """A soft blot, brightest in its middle."""
    across = np.exp(-(((canvas.x - np.float32(x)) / half_width) ** 2))
    return across * np.exp(-(((canvas.y - np.float32(y)) / half_height) ** 2))


DRAW = {"waves": _waves, "lights": _lights, "flag": _flag, "clouds": _clouds}
