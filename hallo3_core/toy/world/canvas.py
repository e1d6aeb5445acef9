"""Shapes painted over one another with soft edges, for all frames of a film at once.

Lengths are in heights of the frame: x from the middle to the right, y from the middle downwards. A value that changes
over time is an array ``f``, one value per frame; a constant is a number.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SOFT = 0.8  # slope of an edge, in coverage per pixel: slightly softer than exact
MARGIN = 2  # pixels around a shape, for its edge

Track = np.ndarray | float


class Window(NamedTuple):
    """The part of the frames that a shape can touch, with its own coordinates ``f h w`` (or broadcasting to it)."""

    rows: slice
    columns: slice
    u: np.ndarray
    v: np.ndarray


class Canvas:
    """Frames ``3 f h w`` in 0..1, float32."""

    def __init__(self, frames: int, height: int, width: int):
        self.planes = np.zeros((3, frames, height, width), np.float32)
        self.height, self.width = height, width
        self.y = ((np.arange(height, dtype=np.float32) + 0.5) / height - 0.5)[None, :, None]
        self.x = ((np.arange(width, dtype=np.float32) + 0.5 - width / 2) / height)[None, None]

    def window(self, x: Track, y: Track, reach_x: float, reach_y: float, tilt: Track = 0.0) -> Window:
        """Coordinates around a moving and turning point, in a window that covers `reach` around it in every frame."""
        x, y, tilt = (np.asarray(track, np.float32).reshape(-1, 1, 1) for track in (x, y, tilt))
        margin = MARGIN / self.height
        lean = float(np.abs(np.sin(tilt)).max())
        reach_x, reach_y = reach_x + lean * reach_y + margin, reach_y + lean * reach_x + margin
        rows = self._span(self.y.ravel(), y.min() - reach_y, y.max() + reach_y)
        columns = self._span(self.x.ravel(), x.min() - reach_x, x.max() + reach_x)
        dx, dy = self.x[..., columns] - x, self.y[:, rows] - y
        if not lean:
            return Window(rows, columns, dx, dy)
        cos, sin = np.cos(tilt), np.sin(tilt)
        return Window(rows, columns, dx * cos + dy * sin, dy * cos - dx * sin)

    @staticmethod
    def _span(places: np.ndarray, low: float, high: float) -> slice:
        start, stop = np.searchsorted(places, (low, high))
        return slice(int(start), int(stop))

    def cover(self, distance: np.ndarray) -> np.ndarray:
        """How much of each pixel a shape covers, from the distance to its edge (inside positive)."""
        return np.clip(distance * np.float32(self.height * SOFT) + np.float32(0.5), 0, 1)

    def paint(self, window: Window, colour, cover: np.ndarray, shade: np.ndarray | float = 1.0) -> None:
        """Paints a colour (three numbers, 0..1) over the window; `shade` multiplies it, pixel by pixel."""
        for plane, channel in zip(self.planes, colour, strict=True):
            part = plane[:, window.rows, window.columns]
            part += cover * (np.float32(channel) * shade - part)

    def dim(self, window: Window, factor: np.ndarray) -> None:
        """Multiplies the existing pixels, as a shadow does."""
        self.planes[:, :, window.rows, window.columns] *= factor


def column(track: Track) -> np.ndarray:
    """Reshapes a track to broadcast with windows: ``f -> f 1 1``."""
    return np.asarray(track, np.float32).reshape(-1, 1, 1)


def ellipse(u: np.ndarray, v: np.ndarray, half_width: Track, half_height: Track) -> np.ndarray:
    """Distance to the edge of an ellipse, inside positive; exact on the edge and the shorter axis."""
    a, b = column(half_width), column(half_height)
    return (1 - np.sqrt((u / a) ** 2 + (v / b) ** 2)) * np.minimum(a, b)


def smooth_step(values: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth between."""
    values = np.clip(values, 0, 1)
    return values * values * (3 - 2 * values)
