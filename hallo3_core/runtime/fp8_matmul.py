"""Products in eight bits: a linear layer that rounds its input too, and so has the GPU's eight-bit matrix units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..model.scaled import ScaledLinear

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max
PIECE = 2048  # rows that are rounded at a time: the float32 numbers between take four times the room of the result
MULTIPLE = 16  # of both of a layer's sizes: what the matrix units take


class ScaledProductLinear(ScaledLinear):
    """A `ScaledLinear` that multiplies eight-bit numbers: lossy, for the input loses all but 3 bits of mantissa.

    Every row of the input has a scale of its own, so that one large token costs the others nothing. Sums are float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows, scale = round_rows(x.reshape(-1, self.in_features))
        weight_scale = self.weight_scale.expand(1, self.out_features).contiguous()
        bias = None if self.bias is None else self.bias.to(torch.bfloat16)
        out = torch._scaled_mm(
            rows, self.weight.t(), scale_a=scale, scale_b=weight_scale, bias=bias, out_dtype=torch.bfloat16
        )
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """``n i`` -> float8 ``n i`` and the scales ``n 1``, float32, whose product is about `x`."""
    largest = x.abs().amax(dim=-1, keepdim=True).float()
    scale = torch.where(largest > 0, largest / LARGEST, 1.0)
    if torch.compiler.is_compiling():  # which makes a single pass of it
        return _rounded(x, scale), scale
    rows = torch.empty_like(x, dtype=FLOAT8)
    for part, own, out in zip(x.split(PIECE), scale.split(PIECE), rows.split(PIECE), strict=True):
        out.copy_(_rounded(part, own))
    return rows, scale


def _rounded(x: Tensor, scale: Tensor) -> Tensor:
    return (x.float() / scale).clamp(-LARGEST, LARGEST).to(FLOAT8)


def multiply_in_eight_bits(module: nn.Module) -> int:
    """Make every scaled layer of `module` whose sizes allow it multiply in eight bits; their count."""
    found = [
        (name, layer)
        for name, layer in module.named_modules()
        if type(layer) is ScaledLinear and not (layer.in_features % MULTIPLE or layer.out_features % MULTIPLE)
    ]
    for name, layer in found:
        product = ScaledProductLinear(layer.in_features, layer.out_features, bias=False, device="meta")
        product.weight, product.weight_scale, product.bias = layer.weight, layer.weight_scale, layer.bias
        module.set_submodule(name, product)
    return len(found)


def multiplies_in_eight_bits(device: torch.device | str) -> bool:
    """Whether the device can: a CUDA device that takes a small product of this form. (A CPU only emulates it.)"""
    if torch.device(device).type != "cuda":
        return False
    layer = ScaledProductLinear(MULTIPLE, MULTIPLE, bias=False, device=device)
    layer.weight.data.fill_(1)
    layer.weight_scale.data.fill_(1)
    try:
        return bool(layer(torch.ones(MULTIPLE, MULTIPLE, device=device, dtype=torch.bfloat16)).eq(MULTIPLE).all())
    except (RuntimeError, ValueError, NotImplementedError):
        return False
