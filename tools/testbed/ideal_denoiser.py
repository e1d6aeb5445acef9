"""A denoiser that is exact: x0 of a mixture of Gaussians in closed form, with guidance towards some of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hallo3_core.pipeline.options import Settings
from hallo3_core.sampling.guidance import EVERYTHING
from hallo3_core.sampling.sampler import PredictClean, sample
from hallo3_core.sampling.schedule import make_schedule

GAUSSIANS, MEANT, SIZE = 64, 8, 512  # the conditions select `MEANT` of them
DRAWS = 500  # of noise, set apart for each seed

Alternative = Callable[..., PredictClean]  # same signature as StepCache


def difference(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, relative to that of `expected`."""
    return float((found - expected).norm() / expected.norm())


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
        draw = torch.Generator().manual_seed(DRAWS * (self.seed + 1) + step)
        return torch.randn(SIZE, generator=draw, dtype=torch.float64)
