"""Timestep modulation: constant over a run, so all steps are computed ahead; its 0.8 G weights can then leave."""

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
    """Modulation of one stream in one half of a layer, ``b 1 D`` each; views of the layer's tensor."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


class LayerModulation(NamedTuple):
    """Modulation of one layer: of both streams, in its attention half and in its MLP half."""

    video_attention: Affine
    video_mlp: Affine
    text_attention: Affine
    text_mlp: Affine

    @classmethod
    def of(cls, rows: Tensor) -> LayerModulation:
        """``b 12 D`` -> named views of it, in the order of the released weights."""
        rows = rows[:, :, None].unbind(1)
        return cls(*(Affine(*rows[i : i + 3]) for i in range(0, PER_BLOCK, 3)))

    def with_video(self, rows: Tensor) -> LayerModulation:
        """With `rows` ``b n 6 D`` added to the video's, in the order of the fields; n is 1, or the number of tokens."""
        attention, mlp = rows.unbind(2)[:3], rows.unbind(2)[3:]
        return self._replace(
            video_attention=Affine(*(own + more for own, more in zip(self.video_attention, attention, strict=True))),
            video_mlp=Affine(*(own + more for own, more in zip(self.video_mlp, mlp, strict=True))),
        )


class Modulation(NamedTuple):
    """Modulation of some timesteps: ``n layers 12 D`` for the blocks and ``n 2 D`` for the output head."""

    blocks: Tensor
    head: Tensor

    def step(self, index: int) -> Modulation:
        """That of one timestep, for every sample of a batch."""
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

    A last bit of a frequency is a visible error at timestep 999, and processors differ in the last bit of a float32
    exponential: so it is rounded from float64, on the CPU (not every device has it).
    """
    half = width // 2
    exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32) / half
    # on a GPU the copy is not waited for: a step of training would wait for all that came before it
    frequencies = exponents.double().exp().float().to(timesteps.device, non_blocking=timesteps.is_cuda)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class TimeModulation(nn.Module):
    """The timestep's embedding, and from it the modulation of all blocks.

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
    """``b n D`` with ``b 1 D`` each: x (1 + scale) + shift"""
    return torch.addcmul(shift, x, 1 + scale)
