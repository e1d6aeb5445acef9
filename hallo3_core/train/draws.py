"""Random numbers of a training step: recorded ones, or ones that depend on (seed, step, sample) alone.

A draw has a name, and a first dimension that counts the samples of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from ..sampling.schedule import TRAINING_STEPS

WORD = 2**63 - 1


class Draws(Protocol):
    """What a step asks for, in the order in which the original draws; `shape` is one sample's."""

    def normal(self, name: str, shape: tuple[int, ...], mean: float = 0.0, deviation: float = 1.0) -> Tensor:
        """``b *shape``, float32"""

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        """``b *shape``, float32, in 0..1"""

    def kept(self, name: str, chance: float) -> Tensor:
        """``b``, true with this chance"""

    def timesteps(self) -> Tensor:
        """``b``, integers in 0..999"""


class Recorded:
    """Draws that were made before, by name."""

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
    """Draws of some samples of a step's batch: those of a sample are the same on whichever process it is.

    Every process draws for all `count` samples and keeps its own, `start .. stop-1`: one generator serves a step, and
    a draw is a single call on the device.
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
        """As the original's processes draw them, were each sample on its own: every one of `intervals` equal parts of
        0..999 is drawn from by as many samples."""
        parts = intervals(self.count)
        own = torch.arange(self.count, device=self._generator.device) * parts // self.count
        drawn = torch.randint(TRAINING_STEPS // parts, (self.count,), generator=self._generator, device=own.device)
        return (own * (TRAINING_STEPS // parts) + drawn)[self.part]


def intervals(count: int) -> int:
    """Into how many parts the timesteps are cut for `count` samples: the largest ``count / i`` that divides 1000."""
    return next(count // i for i in range(1, count + 1) if count % i == 0 and TRAINING_STEPS % (count // i) == 0)


def mixed(*keys: int) -> int:
    """One seed of several numbers, all of whose bits depend on each (the finaliser of splitmix64)."""
    state = 0
    for key in keys:
        state = (state ^ (key & (2**64 - 1))) + 0x9E3779B97F4A7C15 & (2**64 - 1)
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        state = (state ^ state >> 27) * 0x94D049BB133111EB & (2**64 - 1)
        state ^= state >> 31
    return state & WORD
