"""Alternatives for x0 in skipped steps and for when to skip, tested on an ideal denoiser and on the untrained toy.

    python benchmarks/skipping.py [--seeds 20] [--output FILE]

The ideal denoiser is exact: x0 of a mixture of Gaussians in closed form, with the released guidance towards some of
them. A "film" is one sample of it. Differences are relative root mean squares, as in `choices.py`, from the same film
with every step computed and from that of 500 steps. Nothing is timed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.choices import Bench, Choice, difference
from hallo3_core.cli import presets
from hallo3_core.pipeline import clip as pipeline
from hallo3_core.pipeline.options import Settings
from hallo3_core.sampling.guidance import EVERYTHING, Guidance
from hallo3_core.sampling.sampler import DPMPP_2M, SDE_DPMPP_2M, PredictClean, clean_from_velocity, log_snr, sample
from hallo3_core.sampling.schedule import make_schedule
from hallo3_core.sampling.step_cache import IN_A_ROW, StepCache

GAUSSIANS, MEANT, SIZE = 64, 8, 512  # the conditions select `MEANT` of them
WIDTHS = (0.1, 0.3, 0.5)  # of a Gaussian; their means are drawn with deviation 1
STEPS, FINE, THRESHOLD = 50, 500, 0.05
THRESHOLDS, TOY_THRESHOLDS = (0.02, 0.05, 0.1, 0.2), (0.1, 0.2)

Alternative = Callable[..., PredictClean]  # same signature as StepCache
Run = tuple[Settings, Alternative | None]  # None: every step is computed


class Film(NamedTuple):
    latent: Tensor
    steps: int  # computed steps
    model_calls: int


class Mixture:
    """Gaussians of one `width` around random means, in `SIZE` dimensions; the first draw is the film's noise."""

    def __init__(self, seed: int, width: float):
        draw = torch.Generator().manual_seed(seed)
        self.noise = torch.randn(SIZE, generator=draw, dtype=torch.float64)
        self.middles = torch.randn(GAUSSIANS, SIZE, generator=draw, dtype=torch.float64)
        self.seed, self.width = seed, width

    def clean(self, x: Tensor, a: float, count: int = GAUSSIANS) -> Tensor:
        """The exact expected x0 for the state `x` ``d`` at `a`, given that it is from one of the first `count`
        Gaussians."""
        middles, spread = self.middles[:count], (a * self.width) ** 2 + 1 - a * a
        likely = (-(x - a * middles).square().sum(1) / (2 * spread)).softmax(0)
        middle = likely @ middles
        return middle + a * self.width**2 / spread * (x - a * middle)

    def film(self, settings: Settings, alternative: Alternative | None = None) -> Film:
        """Draws a sample ``d`` with a run's settings."""
        schedule, computed = make_schedule(settings.steps), []
        weights = partial(settings.guidance.weights, steps=len(schedule))

        def predict_clean(x: Tensor, step: int) -> Tensor:
            computed.append(weights(step))
            count = {branch: MEANT if branch == EVERYTHING else GAUSSIANS for branch in weights(step)}
            return sum(w * self.clean(x, schedule.alphas[step], count[branch]) for branch, w in weights(step).items())

        predict = (
            predict_clean if alternative is None else alternative(predict_clean, schedule, settings.cache, weights)
        )
        latent = sample(self.noise, schedule, predict, settings.sampler, self._draw)
        return Film(latent, len(computed), sum(map(len, computed)))

    def _draw(self, step: int) -> Tensor:
        draw = torch.Generator().manual_seed(FINE * (self.seed + 1) + step)
        return torch.randn(SIZE, generator=draw, dtype=torch.float64)


class Tried:
    """An alternative to StepCache with the same signature.

    carried: what skipped steps use: extrapolation along a "line", the last computed "x0", or its "difference" of output
    and input, as in EasyCache. by: which change is bounded: that along the "line", or that of the "state" times x0's
    change relative to it, as in EasyCache. in_a_row: the most skipped steps between two computed ones.
    """

    def __init__(self, predict_clean, schedule, threshold, rule, carried="line", by="line", in_a_row=IN_A_ROW):
        self._predict, self._schedule, self._threshold, self._rule = predict_clean, schedule, threshold, rule
        self._carried, self._by, self._in_a_row = carried, by, in_a_row
        self._levels = [log_snr(a) for a in schedule.alphas[:-1]]
        self._seen: list[tuple[int, Tensor, Tensor]] = []  # step, state and x0 of the last two computed steps
        self._path, self._state = 0.0, None

    def __call__(self, x: Tensor, step: int) -> Tensor:
        if self._state is not None:
            self._path += float((x - self._state).norm())
        self._state = x
        if step < len(self._schedule) - 1 and self._serves(step):
            return self._carry(x, step)
        clean = self._predict(x, step)
        self._seen, self._path = [*self._seen[-1:], (step, x, clean)], 0.0
        return clean

    def _serves(self, step: int) -> bool:
        if len(self._seen) < 2 or math.isinf(self._levels[self._seen[0][0]]):
            return False
        (before, x_before, clean_before), (start, x, clean) = self._seen
        if step - start > self._in_a_row or not self._rule(before) == self._rule(start) == self._rule(step):
            return False
        share = self._share(step) if self._by == "line" else self._path / float((x - x_before).norm())
        return share * difference(clean_before, clean) < self._threshold

    def _share(self, step: int) -> float:
        """Distance from the last computed step to `step`, relative to that between the last two computed ones, in log
        SNR."""
        (before, *_), (start, *_) = self._seen
        return (self._levels[step] - self._levels[start]) / (self._levels[start] - self._levels[before])

    def _carry(self, x: Tensor, step: int) -> Tensor:
        (_, _, before), (start, x_start, clean) = self._seen
        if self._carried == "line":
            return clean + self._share(step) * (clean - before)
        if self._carried == "x0":
            return clean
        a, wrapped = self._schedule.wrapped[start], self._schedule.wrapped[step]
        velocity = (a * x_start - clean) / math.sqrt(1 - a * a)
        return clean_from_velocity(x, x + velocity - x_start, wrapped)


ALL = "all computed"
ANY = FINE  # skipped steps in a row
ALTERNATIVES: dict[str, Alternative] = {
    "built": StepCache,
    "x0 of the last computed step": partial(Tried, carried="x0"),
    "EasyCache's difference": partial(Tried, carried="difference"),
    "by the state's movement": partial(Tried, by="state"),
    "one in a row": partial(Tried, in_a_row=1),
    "three in a row": partial(Tried, in_a_row=3),
    "any number in a row": partial(Tried, in_a_row=ANY),
    "x0 of the last computed step, by the state's movement, any number": partial(
        Tried, carried="x0", by="state", in_a_row=ANY
    ),
}


def compare(mixtures: list[Mixture], settings: Settings, runs: dict[str, Run]) -> dict[str, dict]:
    """Runs each on all mixtures: differences from `settings` with every step computed, and for samplers without noise
    also from the film of many steps (with noise, a different number of steps gives a different film)."""
    expected = {"": [mixture.film(settings).latent for mixture in mixtures]}
    if settings.sampler != SDE_DPMPP_2M:
        fine = replace(settings, steps=FINE)
        expected[f" from {FINE} steps"] = [mixture.film(fine).latent for mixture in mixtures]
    found = {}
    for name, run in runs.items():
        films = [mixture.film(*run) for mixture in mixtures]
        found[name] = {
            "steps": round(statistics.mean(film.steps for film in films), 1),
            "model_calls": round(statistics.mean(film.model_calls for film in films), 1),
        }
        for of, latents in expected.items():
            missed = [difference(film.latent, latent) for film, latent in zip(films, latents, strict=True)]
            found[name] |= {f"median{of}": round(statistics.median(missed), 4), f"largest{of}": round(max(missed), 4)}
    return found


def with_fewer(mixtures: list[Mixture], settings: Settings, runs: dict[str, Run]) -> dict[str, dict]:
    """`compare`, plus a shorter schedule with as many steps as the first run computed, none of them skipped."""
    found = compare(mixtures, settings, runs)
    steps = round(next(iter(found.values()))["steps"])
    return found | compare(mixtures, settings, {f"{steps} steps, {ALL}": (replace(settings, steps=steps), None)})


def toy(settings: Settings) -> dict[str, dict]:
    """Each alternative on the untrained toy of `choices.py`."""
    bench, found = Bench("toy", "cpu", torch.float32), {}
    full, *_ = bench.clip(Choice(replace(settings, cache=0)))
    for name, alternative in ALTERNATIVES.items():
        with patch.object(pipeline, "StepCache", alternative):
            latent, _, _, model_calls = bench.clip(Choice(settings))
        found[name] = {"model_calls": model_calls, "difference": round(difference(latent, full), 4)}
    return found


@torch.inference_mode()
def measure(seeds: int) -> dict:
    """Measures all alternatives at fixed thresholds, and the presets' runs at several."""
    mixtures = [Mixture(seed, width) for width in WIDTHS for seed in range(seeds)]
    result = {"gaussians": GAUSSIANS, "meant": MEANT, "size": SIZE, "widths": WIDTHS, "seeds": seeds}
    for sampler, compared in ((DPMPP_2M, with_fewer), (SDE_DPMPP_2M, compare)):
        settings = Settings(STEPS, sampler=sampler, cache=THRESHOLD)
        runs = {name: (settings, alternative) for name, alternative in (ALTERNATIVES | {ALL: None}).items()}
        result[sampler] = compared(mixtures, settings, runs)
    for threshold in TOY_THRESHOLDS:
        result[f"toy, {threshold:g}"] = toy(Settings(STEPS, sampler=DPMPP_2M, cache=threshold))
    for name, preset in presets.PRESETS.items():
        settings = Settings(preset.steps, Guidance(start=preset.guidance_start, stop=preset.guidance_stop), DPMPP_2M)
        if preset.cache:
            runs = {f"{t:g}": (replace(settings, cache=t), StepCache) for t in (preset.cache, *THRESHOLDS)}
            result[f"preset {name}"] = with_fewer(mixtures, settings, runs | {ALL: (settings, None)})
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    result = measure(args.seeds)
    for part, rows in result.items():
        if isinstance(rows, dict):
            sys.stdout.write(f"{part}\n" + "".join(f"  {name}: {row}\n" for name, row in rows.items()))
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
