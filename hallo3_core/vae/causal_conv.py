"""The VAE's causal convolution. It replaces diffusers' and gives the same result in less memory.

diffusers concatenates the preceding frames (the cache, or the first frame repeated) with all frames and convolves the
result at once. Here large frames are convolved a few at a time, straight from the tensor that holds them, and only the
first few are concatenated with the cache. At 480x720 a copy of all frames is 1.8 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..runtime.pinning import Pinning
from .memory_order import empty_of_order

MAX_INPUT = 2**27  # limit of values that one call reads, exceeded only if one output frame needs more


class CausalConv(nn.Module):
    """Wraps the layer of diffusers' module under the same name. If `buffer` is set, the cache is kept in host memory.

    forward: ``b c t h w``, and a cache ``b c k-1 h w`` of the previous frames or None -> ``b o t h w`` and a new cache.
    """

    def __init__(self, conv: nn.Conv3d):
        super().__init__()
        self.conv = conv
        self.buffer: HostBuffer | None = None

    def forward(self, inputs: Tensor, conv_cache: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        before = self.conv.kernel_size[0] - 1
        if before == 0:
            return _in_pieces(self.conv, inputs, None), None
        if conv_cache is None:
            conv_cache = torch.cat([inputs[:, :, :1]] * before, dim=2)  # expand would lose the memory format
        in_host = (
            self.buffer is not None
        )  # `keep` below overwrites what it returned before, on a CPU the very same memory
        conv_cache = conv_cache.to(inputs.device, non_blocking=in_host, copy=in_host)
        last = inputs[:, :, -before:]
        if inputs.shape[2] < before:
            last = torch.cat((conv_cache, last), dim=2)[:, :, -before:]
        cache = last.clone() if self.buffer is None else self.buffer.keep(last)
        return _in_pieces(self.conv, inputs, conv_cache), cache


class PointwiseConv(nn.Conv3d):
    """A convolution of kernel size 1, a few frames at a time."""

    def forward(self, inputs: Tensor) -> Tensor:
        return _in_pieces(super().forward, inputs, None)


def frames_at_once(values: int) -> int:
    """How many frames with `values` values each are read in one call."""
    return max(1, MAX_INPUT // values)


def _in_pieces(conv: Callable[[Tensor], Tensor], inputs: Tensor, cache: Tensor | None) -> Tensor:
    """Convolves the frames of the cache and the inputs, a few at a time."""
    before, frames = 0 if cache is None else cache.shape[2], inputs.shape[2]
    at_once = max(1, frames_at_once(inputs[:, :, 0].numel()) - before)
    if frames <= at_once:
        return conv(inputs if cache is None else torch.cat((cache, inputs), dim=2))
    out = None
    for start in range(0, frames, at_once):
        stop = min(start + at_once, frames)
        part = conv(_behind(cache, inputs, start - before, stop))
        if out is None:
            out = empty_of_order(part, (*part.shape[:2], frames, *part.shape[3:]))
        out[:, :, start:stop] = part
    return out


def _behind(cache: Tensor | None, inputs: Tensor, start: int, stop: int) -> Tensor:
    """Frames `start` to `stop` of the inputs; negative numbers count back into the cache."""
    if start >= 0:
        return inputs[:, :, start:stop]
    return torch.cat((cache[:, :, start:], inputs[:, :, :stop]), dim=2)


class HostBuffer:
    """A convolution's cache in host memory, overwritten for every chunk. For CUDA it is pinned, and copies are
    asynchronous, queued behind the device's other work."""

    def __init__(self, pinning: Pinning | None):
        self._pinning, self._memory = pinning, None

    def keep(self, frames: Tensor) -> Tensor:
        if self._memory is None or self._memory.shape != frames.shape:
            self._memory = torch.empty_like(frames, device="cpu")
            if self._pinning is not None:
                self._pinning.pin(self._memory)
        return self._memory.copy_(frames, non_blocking=self._pinning is not None)


@contextmanager
def caches_in_host_memory(network: nn.Module) -> Iterator[None]:
    """Keeps all convolutions' caches in host memory: 2.8 GB less on the device while a 480x720 clip is decoded, for a
    copy of 2.8 GB each way per chunk. The caches are invalid after the context ends."""
    convolutions = [module for module in network.modules() if isinstance(module, CausalConv)]
    device = convolutions[0].conv.weight.device
    pinning = Pinning(device) if device.type == "cuda" else None
    for each in convolutions:
        each.buffer = HostBuffer(pinning)
    try:
        yield
    finally:
        for each in convolutions:
            each.buffer = None
        if pinning is not None:
            pinning.close()


def replace_causal_convs(autoencoder: nn.Module) -> None:
    """Replaces every 3D convolution of diffusers' autoencoder: by `CausalConv`, or a shortcut's by `PointwiseConv`."""
    for module in list(autoencoder.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "time_kernel_size"):  # only diffusers' causal convolutions have it
                setattr(module, name, CausalConv(child.conv))
            elif name == "conv_shortcut":
                own = PointwiseConv(child.in_channels, child.out_channels, 1, device="meta")
                own.weight, own.bias = child.weight, child.bias
                setattr(module, name, own)
