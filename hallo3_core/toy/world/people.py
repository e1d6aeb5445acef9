"""People of the drawn world: a person's constant features, generated from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .colours import Colour, Palette, Range, colour_distance, pick_colour

SKIN: Palette = {
    "pale": Range((0.055, 0.075), (0.20, 0.28), (0.95, 1.00)),
    "fair": Range((0.060, 0.085), (0.30, 0.40), (0.90, 0.98)),
    "tan": Range((0.065, 0.085), (0.42, 0.52), (0.78, 0.86)),
    "brown": Range((0.050, 0.070), (0.48, 0.56), (0.60, 0.68)),
    "dark": Range((0.045, 0.065), (0.46, 0.55), (0.44, 0.52)),
}
HAIR: Palette = {
    "black": Range((0.60, 0.75), (0.10, 0.30), (0.08, 0.14)),
    "brown": Range((0.045, 0.070), (0.60, 0.75), (0.24, 0.32)),
    "blond": Range((0.125, 0.145), (0.55, 0.70), (0.84, 0.95)),
    "red": Range((0.005, 0.025), (0.78, 0.90), (0.62, 0.74)),
    "grey": Range((0.55, 0.65), (0.03, 0.08), (0.62, 0.74)),
    "blue": Range((0.58, 0.63), (0.60, 0.75), (0.65, 0.85)),
    "green": Range((0.38, 0.44), (0.55, 0.70), (0.45, 0.60)),
    "purple": Range((0.75, 0.80), (0.45, 0.60), (0.55, 0.70)),
    "pink": Range((0.90, 0.93), (0.50, 0.62), (0.88, 0.97)),
}
EYES: Palette = {
    "blue": Range((0.56, 0.62), (0.65, 0.85), (0.60, 0.80)),
    "green": Range((0.36, 0.44), (0.60, 0.80), (0.45, 0.60)),
    "brown": Range((0.05, 0.08), (0.65, 0.80), (0.35, 0.48)),
    "grey": Range((0.55, 0.60), (0.10, 0.20), (0.45, 0.55)),
}
CLOTHES: Palette = {
    "red": Range((0.975, 1.005), (0.80, 0.92), (0.75, 0.88)),
    "yellow": Range((0.135, 0.150), (0.80, 0.92), (0.88, 0.97)),
    "green": Range((0.33, 0.39), (0.60, 0.78), (0.50, 0.65)),
    "teal": Range((0.48, 0.51), (0.65, 0.80), (0.55, 0.70)),
    "blue": Range((0.60, 0.64), (0.70, 0.85), (0.65, 0.85)),
    "purple": Range((0.76, 0.80), (0.55, 0.72), (0.50, 0.68)),
    "white": Range((0.55, 0.65), (0.02, 0.05), (0.92, 0.98)),
    "black": Range((0.60, 0.70), (0.10, 0.25), (0.12, 0.18)),
}
HAIR_STYLES = ("short", "long", "curly", "bobbed", "swept", "tied")
NECKLINES = ("round", "pointed", "high")
MIN_CONTRAST = 0.14  # between hair and skin, and skin and clothes, so that they stay distinguishable


@dataclass(frozen=True)
class Person:
    """A person of the drawn world. Lengths are in heights of the frame, for someone of size 1; y grows downwards."""

    skin: Colour
    hair: Colour
    eyes: Colour
    clothes: Colour
    lips: tuple[float, float, float]
    hair_style: str
    neckline: str
    face_width: float  # half of it, at the eyes
    face_height: float  # half of it
    jaw: float  # how much narrower the chin is than the forehead
    fringe: float  # lower edge of the hair on the forehead, in half face heights above the middle
    parting: float  # -1..1: position of the parting
    eye_gap: float  # half the distance of the eyes
    eye_size: float
    eye_tilt: float
    brow_height: float
    brow_weight: float
    brow_tilt: float
    nose: float
    smile: float
    blush: float
    earrings: Colour | None
    shoulders: float  # half their width
    x: float  # middle of the face, from the middle of the frame
    y: float
    size: float


def draw_person(seed: int) -> Person:
    """The person of a seed."""
    rng = np.random.default_rng([seed, 1])
    skin = pick_colour(rng, SKIN)
    hair = _unlike(rng, HAIR, skin)
    clothes = _unlike(rng, CLOTHES, skin)
    red, green, blue = skin.rgb
    rosy = rng.uniform(0.42, 0.60)  # lips: the skin colour, but redder
    return Person(
        skin=skin,
        hair=hair,
        eyes=pick_colour(rng, EYES),
        clothes=clothes,
        lips=(0.35 * red + 0.44, green * rosy * 0.72, blue * rosy),
        hair_style=str(rng.choice(HAIR_STYLES)),
        neckline=str(rng.choice(NECKLINES)),
        face_width=rng.uniform(0.158, 0.192),
        face_height=rng.uniform(0.212, 0.240),
        jaw=rng.uniform(0.06, 0.26),
        fringe=rng.uniform(0.46, 0.64),
        parting=rng.uniform(-1, 1),
        eye_gap=rng.uniform(0.068, 0.082),
        eye_size=rng.uniform(0.90, 1.15),
        eye_tilt=rng.uniform(-0.18, 0.12),
        brow_height=rng.uniform(0.048, 0.062),
        brow_weight=rng.uniform(0.007, 0.013),
        brow_tilt=rng.uniform(-0.12, 0.10),
        nose=rng.uniform(0.7, 1.3),
        smile=rng.uniform(0.1, 1.0),
        blush=rng.uniform(0.0, 0.35),
        earrings=pick_colour(rng, CLOTHES) if rng.random() < 0.3 else None,
        shoulders=rng.uniform(0.33, 0.45),
        x=rng.uniform(-0.14, 0.14),
        y=rng.uniform(-0.045, 0.0),
        size=rng.uniform(1.00, 1.14),
    )


def _unlike(rng: np.random.Generator, palette: Palette, other: Colour) -> Colour:
    """Picks a colour of the palette that is distinguishable from another."""
    while colour_distance(colour := pick_colour(rng, palette), other) < MIN_CONTRAST:
        pass
    return colour
