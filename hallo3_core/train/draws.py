"""Random numbers of a training step: recorded, or a function of (seed, step, sample) alone.

Each draw has a name; its first dimension is the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from ..sampling.schedule import TRAINING_STEPS

WORD = 2**63 - 1


class Draws(Protocol):
    """The draws of a step, in the original's order; `shape` is that of one sample."""

    def normal(self, name: str, shape: tuple[int, ...], mean: float = 0.0, deviation: float = 1.0) -> Tensor:
        """Normal values, ``b *shape``, float32."""

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform values in 0..1, ``b *shape``, float32."""

    def kept(self, name: str, chance: float) -> Tensor:
        """Booleans ``b``, true with probability `chance`."""

    def timesteps(self) -> Tensor:
        """Timesteps ``b``, integers in 0..999."""


class Recorded:
    """Recorded draws, by name."""

    def __init__(self, values: Mapping[str, Tensor]):
        self._values = values

    def normal(self, name: str, shape: tuple[int, ...], mean: float = 0.0, deviation: float = 1.0) -> Tensor:
        return self._values[name].reshape(-1, *shape)

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        return self._values[name].reshape(-1, *shape)

    def kept(self, name: str, chance: float) -> Tensor:
        return self._values[name] > 0

    def timesteps(self) -> Tensor:
        return self._values["timestep"]


class Keyed:
    """Draws for part of a step's batch. A sample gets the same draws whichever process computes it.

    Every process draws for all `count` samples and keeps its own, `start .. stop-1`, so one generator serves the whole
    step and each draw is a single call on the device.
    """

    def __init__(
        self,
        seed: int,
        step: int,
        count: int,
        part: slice | None = None,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ):
        self.count, self.part = count, part or slice(count)
        self._generator = generator or torch.Generator(device)
        self._generator.manual_seed(mixed(seed, step))

    def normal(self, name: str, shape: tuple[int, ...], mean: float = 0.0, deviation: float = 1.0) -> Tensor:
        values = torch.empty(self.count, *shape, device=self._generator.device)
        return values.normal_(mean, deviation, generator=self._generator)[self.part]

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        values = torch.empty(self.count, *shape, device=self._generator.device)
        return values.uniform_(generator=self._generator)[self.part]

    def kept(self, name: str, chance: float) -> Tensor:
        return self.uniform(name) < chance

    def timesteps(self) -> Tensor:
        """Stratified, as in the original with one sample per process: 0..999 is cut into `intervals` equal parts, and
        the same number of samples draws from each."""
        parts = intervals(self.count)
        own = torch.arange(self.count, device=self._generator.device) * parts // self.count
        drawn = torch.randint(TRAINING_STEPS // parts, (self.count,), generator=self._generator, device=own.device)
        return (own * (TRAINING_STEPS // parts) + drawn)[self.part]


def intervals(count: int) -> int:
    """Number of strata of the timesteps for `count` samples: the largest ``count / i`` that divides 1000."""
    return next(count // i for i in range(1, count + 1) if count % i == 0 and TRAINING_STEPS % (count // i) == 0)


def mixed(*keys: int) -> int:
    """Mixes several numbers into one seed; every bit depends on each number (the finaliser of splitmix64)."""
    state = 0
    for key in keys:
        state = (state ^ (key & (2**64 - 1))) + 0x9E3779B97F4A7C15 & (2**64 - 1)
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        state = (state ^ state >> 27) * 0x94D049BB133111EB & (2**64 - 1)
        state ^= state >> 31
    return state & WORD
