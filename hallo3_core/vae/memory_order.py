"""Memory format of the VAE's activations: contiguous (columns innermost) or channels-last (channels innermost).

cuDNN's 16-bit 3D convolutions read channels-last activations and first copy any others: 170 GB of memory traffic to
decode a 480x720 clip. torch's own group norm copies them back. Here all layers keep their input's format, and the
format of the weights (`autoencoder.channels_last`) decides which one that is.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHANNELS_LAST = torch.channels_last_3d


def is_channels_last(x: Tensor) -> bool:
    """Whether ``b c t h w`` is channels-last and not also contiguous, as a tensor with one channel or one pixel is."""
    return x.is_contiguous(memory_format=CHANNELS_LAST) and not x.is_contiguous()


def empty_of_order(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An uninitialised tensor with the memory format, dtype and device of `like`."""
    order = CHANNELS_LAST if is_channels_last(like) else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=order)


def as_pictures(x: Tensor) -> Tensor:
    """``b c t h w -> (b t) c h w``, a view for a batch of 1."""
    return x.transpose(1, 2).flatten(0, 1)


def as_frames(x: Tensor, batch: int) -> Tensor:
    """``(b t) c h w -> b c t h w``, a view."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)
