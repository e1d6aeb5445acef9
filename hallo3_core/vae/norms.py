"""The VAE's group norm for channels-last activations, without copies: each element is written once.

torch's kernel makes a contiguous copy first and uses a single thread block for each of 32 groups. Here each channel and
frame is summed in parallel in float32. These few sums are then combined into the groups' sums in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .memory_order import is_channels_last


class GroupNorm(nn.GroupNorm):
    """forward: ``b c t h w`` -> the same shape and memory format."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or not is_channels_last(x):  # `out` has no gradient
            return super().forward(x)
        scale, shift = scale_and_shift(self, x)
        return torch.addcmul(shift, x, scale, out=torch.empty_like(x))


def scale_and_shift(norm: nn.GroupNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """``b c t h w`` -> scale and shift, float32 ``b c 1 1 1``: the norm is `x` times scale plus shift."""
    wide = torch.promote_types(x.dtype, torch.float32)
    count = x[0, 0].numel() * (x.shape[1] // norm.num_groups)

    def of_groups(values: Tensor) -> Tensor:  # b c t -> b g
        return values.double().sum(dim=2).unflatten(1, (norm.num_groups, -1)).sum(dim=2) / count

    # Both convert to float32 as they read, without a copy on CUDA.
    mean = of_groups(x.sum(dim=(3, 4), dtype=wide))
    square = of_groups(torch.linalg.vector_norm(x, dim=(3, 4), dtype=wide).double().square())
    inverse = (square - mean.square()).clamp(min=0).add(norm.eps).rsqrt()
    scale = inverse.repeat_interleave(x.shape[1] // norm.num_groups, dim=1) * norm.weight
    shift = norm.bias - mean.repeat_interleave(x.shape[1] // norm.num_groups, dim=1) * scale
    return tuple(y.to(wide)[:, :, None, None, None] for y in (scale, shift))


def replace_group_norms(autoencoder: nn.Module) -> None:
    """Replaces every group norm by `GroupNorm`."""
    for module in list(autoencoder.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.GroupNorm:
                own = GroupNorm(child.num_groups, child.num_channels, child.eps, device="meta")
                own.weight, own.bias = child.weight, child.bias
                setattr(module, name, own)
