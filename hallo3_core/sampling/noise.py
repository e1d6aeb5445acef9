"""Every random draw of a clip, from its seed: the same on every device, and independent of the clips before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

MAX_SEED = 2**64 - 1


class ClipNoise(Protocol):
    """The draws that sampling a clip makes, on the CPU, float32."""

    def pixel_uniform(self, height: int, width: int) -> Tensor:
        """Uniform ``h w``: which pixels of the motion frames are dropped."""

    def encode_normal(self, shape: Sequence[int]) -> Tensor | None:
        """Normal noise for the posterior of the conditioning frames; None: take its mean."""

    def initial(self, shape: Sequence[int]) -> Tensor:
        """Normal noise that sampling starts from."""

    def step(self, index: int, shape: Sequence[int]) -> Tensor:
        """The solver's normal noise at one step; steps are requested in order."""


def check_seed(seed: int) -> None:
    """Raises InputError unless `seed` is one of 64 bits."""
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed is {seed}: choose 0 to {MAX_SEED}")


class SeededNoise:
    """Noise of clip number `clip` of a film with this seed. Each kind of draw has its own stream, so that the initial
    noise does not depend on, say, the number of pixels drawn before it."""

    def __init__(self, seed: int, clip: int):
        check_seed(seed)
        self._pixels, self._initial, self._steps = (_generator(seed, clip, kind) for kind in range(3))

    def pixel_uniform(self, height: int, width: int) -> Tensor:
        return torch.rand(height, width, generator=self._pixels)

    def encode_normal(self, shape: Sequence[int]) -> None:
        return None

    def initial(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(*shape, generator=self._initial)

    def step(self, index: int, shape: Sequence[int]) -> Tensor:
        return torch.randn(*shape, generator=self._steps)


def _generator(*key: int) -> torch.Generator:
    """A generator seeded by several numbers, well mixed."""
    low, high = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(high) << 32 | int(low))
