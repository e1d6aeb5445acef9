"""Skipping steps: x0 of a skipped step is extrapolated from the last two computed ones, linearly in log SNR.

As in EasyCache (Zhou et al., "Less is Enough: Training-Free Video Diffusion Acceleration via Runtime-Adaptive Caching",
2025) a step is skipped while the result can hardly have changed. EasyCache holds the difference of output and input;
here x0, guidance included, is extrapolated, because a velocity in VP form changes with the noise level even if x0 does
not. The multistep solvers extrapolate x0 in the same way. The line itself tells how much x0 changes, so the state is
not needed. A stochastic solver's fresh noise moves x0 back and forth and leaves little to skip.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable
from typing import NamedTuple

from torch import Tensor

from .sampler import PredictClean, log_snr
from .schedule import Schedule

log = logging.getLogger(__name__)

IN_A_ROW = 2  # most steps skipped between two computed ones: only a computed step shows that x0 has turned


class StepCache:
    """Wraps `predict_clean` for one clip over `schedule`.

    threshold: how far x0 may be extrapolated, relative to its size, before it is computed again. rule: identifies how a
    step is computed (its guidance weights); only steps of one rule share a line. The last step is always computed. Pure
    noise, where log SNR is -inf, is on no line.
    """

    def __init__(
        self,
        predict_clean: PredictClean,
        schedule: Schedule,
        threshold: float,
        rule: Callable[[int], Hashable] = lambda step: None,
    ):
        self._predict, self._threshold, self._rule = predict_clean, threshold, rule
        self._levels = [log_snr(a) for a in schedule.alphas[:-1]]  # one per step; the end of the last step is not one
        self._seen: _Computed | None = None
        self._line: _Line | None = None
        self.skipped = 0

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """x0 of this step; steps are requested in order."""
        last = len(self._levels) - 1
        if step < last and self._may_skip(step):
            self.skipped += 1
            return self._line.at(self._levels[step])
        before, self._seen = self._seen, _Computed(step, self._levels[step], self._rule(step), self._predict(x, step))
        self._line = _line(before, self._seen)
        if step == last:
            log.info("%d of %d steps skipped", self.skipped, step + 1)
        return self._seen.clean

    def _may_skip(self, step: int) -> bool:
        """Whether the line may replace this step."""
        return (
            self._line is not None
            and step - self._seen.step <= IN_A_ROW
            and self._rule(step) == self._seen.rule
            and self._line.movement(self._levels[step]) < self._threshold
        )


class _Computed(NamedTuple):
    step: int
    level: float  # log SNR
    rule: Hashable
    clean: Tensor


class _Line(NamedTuple):
    """x0 over the log SNR from a computed step on."""

    start: _Computed
    slope: Tensor  # of x0's shape
    speed: float  # the slope's length, relative to x0's at the start

    def at(self, level: float) -> Tensor:
        return self.start.clean + (level - self.start.level) * self.slope

    def movement(self, level: float) -> float:
        """How far x0 moves from the start to `level`, relative to its size."""
        return (level - self.start.level) * self.speed


def _line(before: _Computed | None, start: _Computed) -> _Line | None:
    """The line through two computed steps; None if they do not define one."""
    if before is None or before.rule != start.rule or math.isinf(before.level):
        return None
    slope = (start.clean - before.clean) / (start.level - before.level)
    return _Line(start, slope, float(slope.norm() / start.clean.norm()))
