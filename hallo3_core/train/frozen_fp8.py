"""Frozen matrices in fp8: half the memory of bf16, and gradients pass through them."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.hallo3 import Hallo3
from ..model.scaled import ScaledLinear
from ..weights import fp8


class FrozenLinear(ScaledLinear):
    """A `ScaledLinear` that saves its fp8 weight for the backward pass, where autograd would save the dequantised
    one."""

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self.weight, self.weight_scale, self.bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return F.linear(x, _multiplied(weight, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        weight, scale = ctx.saved_tensors
        return gradient @ _multiplied(weight, scale, gradient.dtype), None, None, None


def round_frozen(networks: Hallo3, trained: Collection[str]) -> int:
    """Replaces the blocks' frozen matrices by fp8 ones; returns how many."""
    count = 0
    for part in ("denoiser", "reference_net"):
        network = getattr(networks, part)
        for name, layer in list(network.named_modules()) if network is not None else ():
            own = name.removesuffix(".base_layer")  # the layer that a LoRA wraps
            if not isinstance(layer, nn.Linear) or not fp8.is_rounded(f"{own}.weight"):
                continue
            if {f"{part}.{name}.weight", f"{part}.{name}.bias"} & set(trained):
                continue
            owner, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(owner), leaf, rounded(layer))
            count += 1
    return count


def rounded(layer: nn.Linear) -> FrozenLinear:
    """Returns the layer with its weight in fp8, on the same device."""
    place = dict(device=layer.weight.device, dtype=layer.weight.dtype)
    new = FrozenLinear(layer.in_features, layer.out_features, bias=layer.bias is not None, **place)
    if not layer.weight.is_meta:
        weight, scale = fp8.quantise(layer.weight.detach())
        new.weight.data, new.weight_scale.data = weight, scale.to(weight.device)
    if layer.bias is not None:
        new.bias = layer.bias
    return new


def _multiplied(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype) * scale.to(dtype)
