"""Three-scale guidance: a chain from no condition to all of them, and never a model call of weight zero.

    v = v(0,0,0) + s_r [v(r,0,0) - v(0,0,0)] + s_a [v(r,a,0) - v(r,0,0)] + s_t [v(r,a,t) - v(r,a,0)]

With s_r = 1 and s_a = s_t = s this is the released rule ``u + s (c - u)``, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ..errors import InputError


class Branch(NamedTuple):
    """One call of the denoiser: which conditions are the user's; the others are the trained null."""

    reference: bool
    audio: bool
    text: bool


LARGEST_SCALE = 20.0  # the original uses 3.5; beyond 6 it exaggerates
NOTHING = Branch(False, False, False)
PORTRAIT = Branch(True, False, False)
SOUND = Branch(True, True, False)
EVERYTHING = Branch(True, True, True)


class _Scales(NamedTuple):
    reference: float
    audio: float
    text: float


class Scales(_Scales):
    """How much each condition is followed; 1 is plain, the released setting is 1 / 3.5 / 3.5.

    Raises:
        InputError: a scale is not a number of 0 to 20. A negative one would push the film away from what was asked.
    """

    __slots__ = ()

    def __new__(cls, reference: float = 1.0, audio: float = 3.5, text: float = 3.5) -> Scales:
        for name, value in (("reference", reference), ("audio", audio), ("text", text)):
            if not 0 <= value <= LARGEST_SCALE:  # NaN is neither
                raise InputError(
                    f"{name} scale is {value:g}: choose 0 to {LARGEST_SCALE:g} (the original: 1 / 3.5 / 3.5)"
                )
        return super().__new__(cls, reference, audio, text)


UNGUIDED = Scales(1, 1, 1)


@dataclass(frozen=True)
class Guidance:
    """The scales of a clip: one set, or one for each step; and the part of the steps that is guided at all.

    Outside ``start .. stop`` (shares of the run, 0 to 1) a step costs one model call, with all conditions.

    Raises:
        InputError: a part of the steps that cannot be.
    """

    scales: Scales | Sequence[Scales] = Scales()
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self):
        if not 0 <= self.start < self.stop <= 1:  # NaN fails too
            raise InputError(
                f"guidance runs from {self.start:g} to {self.stop:g} of the steps: choose a start of 0 or more that is "
                "below the stop, and a stop of at most 1"
            )

    def weights(self, step: int, steps: int) -> dict[Branch, float]:
        """The model calls of one step and their weights."""
        scales = self.scales if isinstance(self.scales, Scales) else self.scales[step]
        return branch_weights(scales if self.start <= step / steps < self.stop else UNGUIDED)

    def branches(self, steps: int) -> set[Branch]:
        """All model calls that any step of a run needs.

        Raises:
            InputError: a list of scales of another length than the steps.
        """
        if not isinstance(self.scales, Scales) and len(self.scales) != steps:
            raise InputError(f"{len(self.scales)} sets of guidance scales for {steps} steps: give one, or one a step")
        return {branch for step in range(steps) for branch in self.weights(step, steps)}


def branch_weights(scales: Scales) -> dict[Branch, float]:
    """The weight of every model call that has one; they sum to 1."""
    r, a, t = scales
    weights = {NOTHING: 1 - r, PORTRAIT: r - a, SOUND: a - t, EVERYTHING: t}
    return {branch: weight for branch, weight in weights.items() if weight != 0}


def combine(results: Mapping[Branch, Tensor], weights: Mapping[Branch, float]) -> Tensor:
    """The weighted sum of the results, float32; as the first and weighted differences to it (the weights sum to
    1), which loses less to rounding: ``u + s (c - u)``."""
    (first, _), *others = weights.items()
    start = results[first].float()
    return sum((weight * (results[branch].float() - start) for branch, weight in others), start=start)


def guide(
    evaluate: Callable[[Sequence[Branch]], Sequence[Tensor]], weights: Mapping[Branch, float], batched: bool = True
) -> Tensor:
    """Make the model calls of one step, together or one after another (half the memory), and combine them."""
    branches = list(weights)
    groups = [branches] if batched else [[branch] for branch in branches]
    results = {branch: result for group in groups for branch, result in zip(group, evaluate(group), strict=True)}
    return combine(results, weights)
