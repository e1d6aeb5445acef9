"""A linear layer that stores its weight in fp8, and a function to insert it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ScaledLinear(nn.Module):
    """A linear layer with half the memory of a bfloat16 one. The forward dequantises the weight to the input's dtype,
    so only one layer's weight is dequantised at a time.

    weight: ``o i``, float8 (e4m3). weight_scale: a float32 scalar. The layer's weight is their product.
    forward: ``... i -> ... o``
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, device=None, dtype=None):
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        weight = torch.empty(outputs, inputs, device=device, dtype=torch.float8_e4m3fn)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.weight_scale = nn.Parameter(torch.empty((), device=device, dtype=torch.float32), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs, device=device, dtype=dtype)) if bias else None

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def full_weight(self, dtype: torch.dtype) -> Tensor:
        """The dequantised weight ``o i`` in `dtype`."""
        return self.weight.to(dtype) * self.weight_scale.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.full_weight(x.dtype), self.bias)


def put_in_place(module: nn.Module, layer: str) -> None:
    """Replaces the linear layer named `layer` by an uninitialised `ScaledLinear` of the same sizes on the same device.

    Raises:
        ValueError: there is no linear layer of that name.
    """
    owner, _, leaf = layer.rpartition(".")
    try:
        parent, linear = module.get_submodule(owner), module.get_submodule(layer)
    except AttributeError as error:
        raise ValueError(f"a scale for {layer}, which the model does not have") from error
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"a scale for {layer}, which is not a linear layer")
    sizes = dict(inputs=linear.in_features, outputs=linear.out_features, bias=linear.bias is not None)
    setattr(parent, leaf, ScaledLinear(**sizes, device=linear.weight.device, dtype=linear.weight.dtype))
