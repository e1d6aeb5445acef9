"""The VAE's causal convolution, in place of diffusers': the same numbers in less memory.

diffusers copies the frames before (the cache, or the first frame again) and all frames behind each other, and
convolves that in one go. Here large frames are convolved a few at a time, out of the tensor where they are, and only
the first few are copied behind the cache. At 480x720 the copy of all is 1.8 GB.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

PIECE = 2**27  # values that a kernel reads at a time, at most, where a single frame and those before it allow


class CausalConv(nn.Module):
    """Takes over the layer of diffusers' module, and its name. Caches wait on the device `keep`; None: on the frames'.

    forward: ``b c t h w``, and the cache ``b c k-1 h w`` of the frames before or None -> ``b o t h w`` and a new cache.
    """

    def __init__(self, conv: nn.Conv3d):
        super().__init__()
        self.conv = conv
        self.keep: str | None = None

    def forward(self, inputs: Tensor, conv_cache: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        before = self.conv.kernel_size[0] - 1
        if before == 0:
            return self.conv(inputs), None
        if conv_cache is None:
            conv_cache = inputs[:, :, :1].expand(-1, -1, before, -1, -1)
        conv_cache = conv_cache.to(inputs.device)
        frames = inputs.shape[2]
        cache = torch.cat((conv_cache, inputs[:, :, -before:]), dim=2)[:, :, -before:].clone()
        cache = cache if self.keep is None else cache.to(self.keep)
        at_once = max(1, PIECE // inputs[:, :, 0].numel() - before)
        if frames <= at_once:
            return self.conv(torch.cat((conv_cache, inputs), dim=2)), cache
        out = None
        for start in range(0, frames, at_once):
            stop = min(start + at_once, frames)
            piece = self.conv(_behind(conv_cache, inputs, start - before, stop))
            if out is None:
                out = piece.new_empty(*piece.shape[:2], frames, *piece.shape[3:])
            out[:, :, start:stop] = piece
        return out, cache


def _behind(cache: Tensor, inputs: Tensor, start: int, stop: int) -> Tensor:
    """Frames `start` to `stop` of the inputs; those of negative number are the cache's last."""
    if start >= 0:
        return inputs[:, :, start:stop]
    return torch.cat((cache[:, :, start:], inputs[:, :, :stop]), dim=2)


@contextmanager
def caches_in_host_memory(network: nn.Module) -> Iterator[None]:
    """All convolutions' caches wait there: 2.8 GB less while a 480x720 clip is decoded, and 2.8 GB to and fro at each
    of its chunks."""
    convolutions = [module for module in network.modules() if isinstance(module, CausalConv)]
    for each in convolutions:
        each.keep = "cpu"
    try:
        yield
    finally:
        for each in convolutions:
            each.keep = None


def exchange_causal_convs(autoencoder: nn.Module) -> None:
    """Put `CausalConv` in the place of every causal convolution of diffusers' autoencoder."""
    for module in list(autoencoder.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "time_kernel_size"):  # no other module of it has
                setattr(module, name, CausalConv(child.conv))
