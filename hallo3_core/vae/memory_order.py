"""Which dimension of the VAE's activations is innermost in memory: the frames' columns, or the channels.

cuDNN's 16-bit 3D convolutions read channels-last activations and copy others first: 170 GB of traffic for a decoded
clip of 480x720. torch's own group norm copies them back. Here all layers keep the order that they are given, and the
order of the weights (`autoencoder.channels_last`) decides which that is.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHANNELS_LAST = torch.channels_last_3d


def is_channels_last(x: Tensor) -> bool:
    """Whether ``b c t h w`` lies so and not otherwise; a tensor of one channel or one pixel lies both ways."""
    return x.is_contiguous(memory_format=CHANNELS_LAST) and not x.is_contiguous()


def empty_of_order(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uninitialised, in `like`'s order, dtype and device."""
    order = CHANNELS_LAST if is_channels_last(like) else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=order)


def as_pictures(x: Tensor) -> Tensor:
    """``b c t h w -> (b t) c h w``, a view for a batch of 1."""
    return x.transpose(1, 2).flatten(0, 1)


def as_frames(x: Tensor, batch: int) -> Tensor:
    """``(b t) c h w -> b c t h w``, a view."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)
