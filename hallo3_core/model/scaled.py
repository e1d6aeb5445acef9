"""Linear layers that store their weight in 8 bits, and a function to insert them."""

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


class Int8Linear(ScaledLinear):
    """A `ScaledLinear` whose weight is int8 with a scale for each row, ``o 1``, and was rotated before it was rounded.

    group: columns that were rotated together (see `rotate`); 0 for none.
    """

    def __init__(self, inputs: int, outputs: int, *, group: int = 0, bias: bool = True, device=None, dtype=None):
        super().__init__(inputs, outputs, bias=bias, device=device, dtype=dtype)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, device=device, dtype=torch.int8), requires_grad=False)
        scale = torch.empty(outputs, 1, device=device, dtype=torch.float32)
        self.weight_scale = nn.Parameter(scale, requires_grad=False)
        self.group = group
        self.register_buffer("rotated", torch.tensor(group, device="cpu"))  # the same, in the state dict

    def full_weight(self, dtype: torch.dtype) -> Tensor:
        return rotate(self.weight.to(dtype), self.group) * self.weight_scale.to(dtype)


def rotate(values: Tensor, group: int) -> Tensor:
    """``... i -> ... i``: each `group` of columns (a power of 4; 0: none) times a Hadamard matrix of equal row sums.

    The matrix is symmetric and orthogonal, so a second rotation undoes the first. It spreads a large value over its
    group, so that rounding a row to few levels loses less ("ConvRot", arXiv:2512.03673).
    """
    if not group:
        return values
    quarter = (1 - 2 * torch.eye(4, device=values.device, dtype=values.dtype).flip(0)) / 2
    matrix = quarter
    while len(matrix) < group:
        matrix = torch.kron(matrix, quarter)
    return (values.unflatten(-1, (-1, group)) @ matrix).flatten(-2)


def put_in_place(module: nn.Module, layer: str, group: int | None = None) -> None:
    """Replaces the linear layer named `layer` by an uninitialised `ScaledLinear` of the same sizes on the same device,
    or by an `Int8Linear` that was rotated in groups of `group`.

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
    sizes |= dict(device=linear.weight.device, dtype=linear.weight.dtype)
    setattr(parent, leaf, ScaledLinear(**sizes) if group is None else Int8Linear(**sizes, group=group))
