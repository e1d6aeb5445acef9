"""Backgrounds: smooth patterns, moving or still."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .colours import Colour, Palette, Range, pick_colour

KINDS = ("waves", "lights", "flag", "clouds")
# No reds, oranges or browns: no background has the colour of skin.
BACKGROUND: Palette = {
    "green": Range((0.34, 0.40), (0.35, 0.50), (0.40, 0.60)),
    "teal": Range((0.47, 0.51), (0.35, 0.50), (0.45, 0.65)),
    "blue": Range((0.57, 0.62), (0.40, 0.55), (0.50, 0.75)),
    "purple": Range((0.72, 0.77), (0.28, 0.42), (0.45, 0.65)),
    "grey": Range((0.55, 0.65), (0.03, 0.10), (0.40, 0.70)),
}


@dataclass(frozen=True)
class DrawnScene:
    """A background. Lengths are in heights of the frame, times in seconds, angles in radians."""

    kind: str
    moving: bool
    colour: Colour
    accent: tuple[float, float, float]  # the pattern's second colour, 0..1
    speed: float  # 1 is usual; used only if `moving`
    direction: int  # 1 or -1
    scale: float
    phases: tuple[float, ...]  # of the pattern's parts, 0..2 pi
    places: tuple[tuple[float, float], ...]  # of its parts, x from the middle and y from the top


def draw_scene(seed: int, kind: str | None = None, moving: bool | None = None) -> DrawnScene:
    """The scene of a seed; `kind` and `moving` override what the seed would choose, and nothing else."""
    rng = np.random.default_rng([seed, 2])
    chosen, moves = str(rng.choice(KINDS)), bool(rng.random() < 0.5)
    kind = chosen if kind is None else kind
    if kind not in KINDS:
        raise ValueError(f"unknown scene {kind!r}, expected one of {', '.join(KINDS)}")
    colour = pick_colour(rng, BACKGROUND)
    lighter = rng.uniform(0.35, 0.60)
    places = [(-0.85 + 0.25 * i + rng.uniform(-0.06, 0.06), rng.uniform(0.04, 0.42)) for i in range(8)]
    return DrawnScene(
        kind=kind,
        moving=moves if moving is None else moving,
        colour=colour,
        accent=tuple(float(channel + (1 - channel) * lighter) for channel in colour.rgb),
        speed=rng.uniform(0.8, 1.3),
        direction=int(rng.choice((-1, 1))),
        scale=rng.uniform(0.85, 1.2),
        phases=tuple(rng.uniform(0, 2 * np.pi, 8).tolist()),
        places=tuple((float(x), float(y)) for x, y in places),
    )
