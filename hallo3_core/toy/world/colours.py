"""Named colours with some variation: two people with "red hair" share the word but not the exact shade."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Colour(NamedTuple):
    """A colour and the word for it."""

    name: str
    rgb: tuple[float, float, float]  # 0..1


class Range(NamedTuple):
    """The hues, saturations and values that share one name; a hue below 0 wraps around."""

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]


Palette = Mapping[str, Range]


def pick_colour(rng: np.random.Generator, palette: Palette) -> Colour:
    """A name of the palette, all equally likely, and a colour within its range."""
    name = list(palette)[rng.integers(len(palette))]
    hue, saturation, value = (rng.uniform(*limits) for limits in palette[name])
    return Colour(name, colorsys.hsv_to_rgb(hue % 1, saturation, value))


def colour_distance(one: Colour, other: Colour) -> float:
    """Root mean square difference of two colours' channels, 0..1."""
    return float(np.sqrt(np.mean(np.subtract(one.rgb, other.rgb) ** 2)))
