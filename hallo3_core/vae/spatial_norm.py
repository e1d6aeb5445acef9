"""The VAE decoder's norm. It replaces diffusers' and gives the same result from 1x1x1 convolutions of the latent.

diffusers resizes the latent to the activation's size (up to 8 x 8 pixels and 4 frames for each latent pixel) and
convolves it there, twice in each of 37 norms, and keeps the resized latents as caches that a kernel of size 1 never
reads. But a 1x1x1 convolution and a nearest-neighbour resize commute. So here the latent is convolved first, and the
resize is a broadcast.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .memory_order import is_channels_last
from .norms import scale_and_shift

NAMES = ("norm_layer", "conv_y", "conv_b")  # the submodules of diffusers' norm; the tensors keep their names


class SpatialNorm(nn.Module):
    """Group norm whose scale and shift are computed from the latent. Reuses the layers of diffusers' module.

    forward: activation ``b c f H W`` and latent ``b z t h w`` -> ``b c f H W``, and an empty cache. H, W and f are
    multiples of h, w and t; if f is odd and above 1, the first frame is resized separately.
    """

    def __init__(self, norm_layer: nn.Module, conv_y: nn.Module, conv_b: nn.Module):
        super().__init__()
        self.norm_layer, self.conv_y, self.conv_b = norm_layer, conv_y, conv_b

    def forward(self, f: Tensor, zq: Tensor, conv_cache: dict | None = None) -> tuple[Tensor, dict]:
        scale, shift = self.conv_y.conv(zq), self.conv_b.conv(zq)
        frames = f.shape[2]
        first = 1 if frames > 1 and frames % 2 else 0
        joined = is_channels_last(f)
        if joined:  # the norm is itself a scale and a shift, so it is merged into the small tensors
            own_scale, own_shift = scale_and_shift(self.norm_layer, f)
            scale, shift, out = scale * own_scale, torch.addcmul(shift, scale, own_shift), torch.empty_like(f)
        else:
            out = self.norm_layer(f)
        for part in (slice(0, first), slice(first, frames)):
            if part.start < part.stop:
                latents = slice(0, 1) if part.stop == first else slice(first, None)
                small = scale[:, :, latents], shift[:, :, latents]
                if joined:
                    _channels_last(f[:, :, part], *small, out[:, :, part])
                else:
                    _scale_and_shift_(out[:, :, part], *small)
        return out, {}


def _channels_last(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
    """Scales and shifts ``b c f H W`` by float32 ``b c t h w``, nearest-neighbour, in one pass, rounded once."""
    frames, rows, columns = (large // small for large, small in zip(x.shape[2:], scale.shape[2:], strict=True))
    x, out = (y.unflatten(4, (-1, columns)).unflatten(3, (-1, rows)).unflatten(2, (-1, frames)) for y in (x, out))
    scale, shift = (y[:, :, :, None, :, None, :, None] for y in (scale, shift))
    torch.addcmul(shift, x, scale, out=out)


def _scale_and_shift_(x: Tensor, scale: Tensor, shift: Tensor) -> None:
    """In place: scales and shifts ``b c f H W`` by ``b c t h w``, nearest-neighbour."""
    frames, rows, columns = (large // small for large, small in zip(x.shape[2:], scale.shape[2:], strict=True))
    blocks = x.unflatten(3, (-1, rows)).unflatten(2, (-1, frames))  # b c t f h r W
    # expanded along a row, because broadcasting the innermost dimension is slow
    scale, shift = (y.repeat_interleave(columns, dim=-1)[:, :, :, None, :, None] for y in (scale, shift))
    blocks.mul_(scale).add_(shift)


def replace_spatial_norms(decoder: nn.Module) -> None:
    """Replaces every norm of diffusers' decoder that reads the latent by `SpatialNorm`."""
    for module in list(decoder.modules()):
        for name, child in list(module.named_children()):
            if all(hasattr(child, part) for part in NAMES):
                setattr(module, name, SpatialNorm(*(getattr(child, part) for part in NAMES)))
