"""Steps that are not computed: x0 of an earlier step serves again while it can hardly have changed.

The idea is EasyCache's (Zhou et al., "Less is Enough: Training-Free Video Diffusion Acceleration via Runtime-Adaptive
Caching", 2025): from one computed step to the next it is seen how much the result moves for a movement of the input; so
the input alone tells how far the result must have moved since, and it is computed again when that adds up to too much.

What serves again here is x0, guidance included, where EasyCache keeps the difference of output and input: a velocity in
VP form turns with the noise level even where x0 stands still. The solver's fresh noise is movement of the input too, so
a stochastic solver leaves little to reuse.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable

from torch import Tensor

from .errors import InputError
from .sampler import PredictClean

log = logging.getLogger(__name__)


def check_threshold(threshold: float) -> None:
    """Raises InputError unless `threshold` is a share of the result that may go unnoticed; 0 is off."""
    if not 0 <= threshold < 1:
        raise InputError(f"the step cache's threshold is {threshold:g}: choose 0 (off) to below 1, such as 0.05")


class StepCache:
    """Around `predict_clean`, for one clip of `steps` steps.

    threshold: relative change of x0 that may add up before it is computed again. rule: what a step is computed by (its
    guidance weights); x0 of another rule does not serve. The first two steps and the last are always computed.
    """

    def __init__(
        self,
        predict_clean: PredictClean,
        steps: int,
        threshold: float,
        rule: Callable[[int], Hashable] = lambda step: None,
    ):
        check_threshold(threshold)
        self._predict, self._last, self._threshold, self._rule = predict_clean, steps - 1, threshold, rule
        self._seen: tuple[Tensor, Tensor, Hashable] | None = None  # state, x0 and rule of the last computed step
        self._state: Tensor | None = None  # of the step before this one, computed or not
        self._gain = math.inf  # movement of x0 for a movement of the state
        self._change = 0.0  # of x0 since it was computed, relative to it
        self.reused = 0

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """x0 of this step; steps are asked for in order."""
        if step < self._last and self._serves(x, step):
            self.reused += 1
            self._state = x
            return self._seen[1]
        clean = self._predict(x, step)
        if self._seen is not None:
            self._gain = _ratio(_length(clean - self._seen[1]), _length(x - self._seen[0]))
        self._seen, self._state, self._change = (x, clean, self._rule(step)), x, 0.0
        if step == self._last:
            log.info("%d of %d steps reused", self.reused, step + 1)
        return clean

    def _serves(self, x: Tensor, step: int) -> bool:
        """Whether x0 of the last computed step does for this one too."""
        if self._seen is None or math.isinf(self._gain) or self._rule(step) != self._seen[2]:
            return False
        self._change += _ratio(self._gain * _length(x - self._state), _length(self._seen[1]))
        return self._change < self._threshold


def _length(x: Tensor) -> float:
    return float(x.float().norm())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.inf if part else 0.0
