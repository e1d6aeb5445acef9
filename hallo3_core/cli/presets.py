"""Presets: named sets of options that trade quality for speed. Each option can also be set by itself."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Preset:
    """Values of a preset. Each field is the command-line option of that name; an explicit option overrides it."""

    steps: int
    sampler: str
    guidance_start: float
    guidance_stop: float
    cache: float
    framing: str


DEFAULT = "quality"
# Presets with fewer steps or the step cache use the solver that adds no noise. Removing added noise takes many steps,
# and noise changes the output at every step, so the cache would find little to reuse.
PRESETS = {
    "quality": Preset(50, "sde-dpmpp-2m", 0.0, 1.0, 0.0, "auto"),  # the original's
    "balanced": Preset(30, "dpmpp-2m", 0.0, 1.0, 0.05, "auto"),
    "fast": Preset(20, "dpmpp-2m", 0.0, 0.6, 0.1, "native"),
}


def settle(args: argparse.Namespace) -> argparse.Namespace:
    """The options, with the preset's values for those that are None."""
    chosen = asdict(PRESETS[args.preset])
    return argparse.Namespace(**vars(args) | {name: _or_preset(args, name, chosen[name]) for name in chosen})


def summary(args: argparse.Namespace) -> str:
    """A one-line summary of a film's settings: the preset, and the effective value of every option that it sets."""
    now = settle(args)
    own = [name for name in asdict(PRESETS[args.preset]) if getattr(args, name) is not None]
    words = [f"{now.steps} steps of {now.sampler}"]
    if (now.guidance_start, now.guidance_stop) != (0, 1):
        words.append(f"guidance from {now.guidance_start:g} to {now.guidance_stop:g} of them")
    if now.cache:
        words.append(f"step cache {now.cache:g}")
    if now.framing != "auto":
        words.append(f"framing {now.framing}")
    changed = f" with your own {', '.join(name.replace('_', ' ') for name in own)}" if own else ""
    return f"preset {args.preset}{changed}: {', '.join(words)}"


def _or_preset(args: argparse.Namespace, name: str, otherwise):
    value = getattr(args, name)
    return otherwise if value is None else value
