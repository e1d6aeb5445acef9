"""Timestep modulation. It depends only on the timestep, so all steps of a run are computed in advance; its 0.8 G
weights can then be freed."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import TransformerConfig

PER_BLOCK = 12  # (shift, scale, gate) x (attention, MLP) for video, then the same for text
PER_HEAD = 2  # shift, scale


class Affine(NamedTuple):
    """Modulation of one stream in one half of a layer: ``b 1 D`` each, views of the layer's tensor."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


class LayerModulation(NamedTuple):
    """Modulation of one layer, for both streams, in its attention half and its MLP half."""

    video_attention: Affine
    video_mlp: Affine
    text_attention: Affine
    text_mlp: Affine

    @classmethod
    def of(cls, rows: Tensor) -> LayerModulation:
        """Named views of ``b 12 D``, in the order of the released weights."""
        rows = rows[:, :, None].unbind(1)
        return cls(*(Affine(*rows[i : i + 3]) for i in range(0, PER_BLOCK, 3)))

    def with_video(self, rows: Tensor) -> LayerModulation:
        """Adds `rows` ``b n 6 D`` to the video's modulation, in field order; n is 1 or the number of tokens."""
        attention, mlp = rows.unbind(2)[:3], rows.unbind(2)[3:]
        return self._replace(
            video_attention=Affine(*(own + more for own, more in zip(self.video_attention, attention, strict=True))),
            video_mlp=Affine(*(own + more for own, more in zip(self.video_mlp, mlp, strict=True))),
        )


class Modulation(NamedTuple):
    """Modulation of ``n`` timesteps: ``n layers 12 D`` for the blocks and ``n 2 D`` for the output head."""

    blocks: Tensor
    head: Tensor

    def step(self, index: int) -> Modulation:
        """The modulation of one timestep, broadcast to every sample of a batch."""
        return Modulation(self.blocks[index : index + 1], self.head[index : index + 1])

    def layer(self, index: int) -> LayerModulation:
        return LayerModulation.of(self.blocks[:, index])

    @property
    def head_shift(self) -> Tensor:
        """``n 1 D``"""
        return self.head[:, 0, None]

    @property
    def head_scale(self) -> Tensor:
        """``n 1 D``"""
        return self.head[:, 1, None]


def sinusoid(timesteps: Tensor, width: int) -> Tensor:
    """``n -> n width``, float32: cosines first, frequencies ``10000 ** (-i / (width / 2))``.

    At timestep 999, an error in the last bit of a frequency is visible, and processors differ in the last bit of a
    float32 exponential. So frequencies are computed in float64 and rounded, on the CPU, because not every device has
    float64.
    """
    half = width // 2
    exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32) / half
    # asynchronous on a GPU: a blocking copy would make a training step wait for all queued work
    frequencies = exponents.double().exp().float().to(timesteps.device, non_blocking=timesteps.is_cuda)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class TimeModulation(nn.Module):
    """The timestep embedding, and the modulation of all blocks computed from it.

    forward: embedding ``n time`` -> ``n layers 12 D``
    """

    def __init__(self, config: TransformerConfig, *, operations=nn, device=None, dtype=None):
        super().__init__()
        kw = dict(device=device, dtype=dtype)
        self.hidden = config.hidden
        self.time = nn.Sequential(
            operations.Linear(config.hidden, config.time, **kw),
            nn.SiLU(),
            operations.Linear(config.time, config.time, **kw),
        )
        self.blocks = nn.ModuleList(
            operations.Linear(config.time, PER_BLOCK * config.hidden, **kw) for _ in range(config.layers)
        )

    def embed(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        """``n -> n time``, computed in `dtype`"""
        return self.time(sinusoid(timesteps, self.hidden).to(dtype))

    def forward(self, embedding: Tensor) -> Tensor:
        e = F.silu(embedding)
        return torch.stack([linear(e).unflatten(-1, (PER_BLOCK, -1)) for linear in self.blocks], dim=1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift, for x ``b n D``, shift and scale ``b 1 D``."""
    return torch.addcmul(shift, x, 1 + scale)
