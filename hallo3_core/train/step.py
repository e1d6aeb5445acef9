"""One step of training, as section "Training" of the paper describes it and as the released code computes it.

A clip's latent is noised (`draw.py`). The networks get the clip's first frames, a portrait from the same film, the
portrait's face, the audio and the text, each of which is sometimes dropped, and predict the velocity. Where paper and
code differ, we follow the code: docs/training/reproduce.md lists the differences.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..model.hallo3 import Hallo3
from ..model.trunk import LayoutOf, Trunk
from ..sampling.schedule import TRAINING_STEPS, zero_terminal_alphas
from .draw import Drawn, per_sample
from .networks import read_by


class Step(NamedTuple):
    """loss ``b``; noisy latent and velocity ``b 16 t h w``; a ``b``."""

    loss: Tensor
    noisy: Tensor
    velocity: Tensor
    a: Tensor


def step(networks: Hallo3, drawn: Drawn, dtype: torch.dtype = torch.float32, layout: LayoutOf = Trunk.layout) -> Step:
    """Runs the networks on a noised clip; the loss is the mean squared error of the velocity.

    The original weights the error of the clean latent by ``1 / (1 - a^2)``, which is equivalent. It counts all cells of
    the latent the same; `drawn.weight` can make those around the mouth count more.
    """
    a = table(drawn.clip.device)[drawn.timesteps]
    signal, sigma = per_sample(a, drawn.clip), per_sample((1 - a**2).sqrt(), drawn.clip)
    noisy = signal * drawn.clip + sigma * drawn.noise
    target = signal * drawn.noise - sigma * drawn.clip
    inputs = (noisy.to(dtype), drawn.concat.to(dtype), drawn.timesteps)
    velocity = networks(*inputs, **read_by(networks, drawn, dtype), layout=layout).float()
    error = (velocity - target).square()
    if drawn.weight is not None:
        error = error * drawn.weight[:, None, None]
    return Step(error.flatten(1).mean(1), noisy, velocity, a)


@cache
def table(device: torch.device) -> Tensor:
    """``a`` of every timestep: 1000 values from almost 1 down to 0 (zero terminal SNR)."""
    return torch.from_numpy(zero_terminal_alphas(TRAINING_STEPS)[::-1].copy()).to(device)
