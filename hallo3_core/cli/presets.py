"""How much quality is given for speed, in one word: bundles of options that the command line takes one by one too."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Preset:
    """What a preset sets; each is an option of that name, and an option that is given wins."""

    steps: int
    sampler: str
    guidance_start: float
    guidance_stop: float
    cache: float
    framing: str


DEFAULT = "quality"
# Fewer steps and the step cache go with the solver that adds no noise: noise needs many steps to be worked off, and is
# change, which leaves the cache little to reuse.
PRESETS = {
    "quality": Preset(50, "sde-dpmpp-2m", 0.0, 1.0, 0.0, "auto"),  # the original's
    "balanced": Preset(30, "dpmpp-2m", 0.0, 1.0, 0.05, "auto"),
    "fast": Preset(20, "dpmpp-2m", 0.0, 0.6, 0.1, "native"),
}


def settle(given: argparse.Namespace) -> argparse.Namespace:
    """The options with those that were not given (None) as the preset has them."""
    chosen = asdict(PRESETS[given.preset])
    return argparse.Namespace(**vars(given) | {name: _given(given, name, chosen[name]) for name in chosen})


def summary(given: argparse.Namespace) -> str:
    """What a film was made with, in one line: the preset, and every option that it sets, as it was in force."""
    now = settle(given)
    own = [name for name in asdict(PRESETS[given.preset]) if getattr(given, name) is not None]
    words = [f"{now.steps} steps of {now.sampler}"]
    if (now.guidance_start, now.guidance_stop) != (0, 1):
        words.append(f"guidance from {now.guidance_start:g} to {now.guidance_stop:g} of them")
    if now.cache:
        words.append(f"step cache {now.cache:g}")
    if now.framing != "auto":
        words.append(f"framing {now.framing}")
    changed = f" with your own {', '.join(name.replace('_', ' ') for name in own)}" if own else ""
    return f"preset {given.preset}{changed}: {', '.join(words)}"


def _given(given: argparse.Namespace, name: str, otherwise):
    value = getattr(given, name)
    return otherwise if value is None else value
