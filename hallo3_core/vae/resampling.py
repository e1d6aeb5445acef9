"""The VAE's up- and downsampling. It replaces diffusers' and gives the same result, keeps the input's memory format,
and processes large frames a few at a time.

diffusers repeats frames and then convolves every copy. Here each frame is convolved once and the result is repeated.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .causal_conv import frames_at_once
from .memory_order import as_frames, as_pictures, empty_of_order


class Upsample(nn.Module):
    """``b c t h w -> b c t' 2h 2w``: nearest-neighbour, then a 2D convolution. With `time`, t' is 2 t, except that the
    first frame of an odd count is not doubled."""

    def __init__(self, conv: nn.Conv2d, time: bool):
        super().__init__()
        self.conv, self.time = conv, time

    def forward(self, inputs: Tensor) -> Tensor:
        batch, _, frames, height, width = inputs.shape
        first = (frames % 2 if frames > 1 else 1) if self.time else frames  # frames that are not doubled
        shape = (batch, self.conv.out_channels, first + 2 * (frames - first), 2 * height, 2 * width)
        out = empty_of_order(inputs, shape)
        at_once = frames_at_once(4 * inputs[:, :, 0].numel())
        for start, stop in _spans(0, first, at_once) + _spans(first, frames, at_once):
            part = as_frames(self.conv(as_pictures(_doubled(inputs[:, :, start:stop]))), batch)
            if stop <= first:
                out[:, :, start:stop] = part
            else:
                pairs = out[:, :, first + 2 * (start - first) : first + 2 * (stop - first)]
                pairs.unflatten(2, (-1, 2)).copy_(part[:, :, :, None])
        return out


class Downsample(nn.Module):
    """``b c t h w -> b c t' h/2 w/2``: with `time`, averages each pair of frames, keeping the first frame of an odd
    count; then a 2D convolution."""

    def __init__(self, conv: nn.Conv2d, time: bool):
        super().__init__()
        self.conv, self.time = conv, time

    def forward(self, x: Tensor) -> Tensor:
        if self.time:
            x = _halved_time(x)
        batch, _, frames, height, width = x.shape
        out = empty_of_order(x, (batch, self.conv.out_channels, frames, height // 2, width // 2))
        for start, stop in _spans(0, frames, frames_at_once(x[:, :, 0].numel())):
            # padded as video: a single picture would lose the memory format
            padded = F.pad(x[:, :, start:stop], (0, 1, 0, 1))
            out[:, :, start:stop] = as_frames(self.conv(as_pictures(padded)), batch)
        return out


def _doubled(x: Tensor) -> Tensor:
    """``b c t h w -> b c t 2h 2w``, nearest-neighbour."""
    batch, channels, frames, height, width = x.shape
    out = empty_of_order(x, (batch, channels, frames, 2 * height, 2 * width))
    out.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).copy_(x[:, :, :, :, None, :, None])
    return out


def _halved_time(x: Tensor) -> Tensor:
    first = x.shape[2] % 2
    if x.shape[2] == first:
        return x
    pairs = x[:, :, first:]
    # halved before adding, because float16 would overflow
    means = (pairs[:, :, ::2] * 0.5).add_(pairs[:, :, 1::2], alpha=0.5)
    return torch.cat((x[:, :, :1], means), dim=2) if first else means


def _spans(start: int, stop: int, length: int) -> list[tuple[int, int]]:
    return [(begin, min(begin + length, stop)) for begin in range(start, stop, length)]


def replace_resampling(autoencoder: nn.Module) -> None:
    """Replaces every up- and downsampling of diffusers' autoencoder."""
    for module in list(autoencoder.modules()):
        for kind, own in (("upsamplers", Upsample), ("downsamplers", Downsample)):
            layers = getattr(module, kind, None)
            if layers is not None:
                setattr(module, kind, nn.ModuleList(own(layer.conv, layer.compress_time) for layer in layers))
