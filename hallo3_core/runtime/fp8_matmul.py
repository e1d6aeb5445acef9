"""fp8 matmuls: linear layers that also round their input, so that the GPU multiplies in fp8."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..model.scaled import ScaledLinear

FLOAT8 = torch.float8_e4m3fn
VALUES_AT_ONCE = 2**23  # values scaled and rounded together: they fit in a GPU's cache
# float32 bits as an integer: the exponent, biased by 127, is above 23 bits of mantissa
MANTISSA, BIAS = 23, 127
LARGEST_EXPONENT = 8  # exponent of float8's largest value, 1.75 * 2**8
OVER_LARGEST = 0x1FFFFF  # added, carries a mantissa above 1.75 into the exponent
SMALLEST_EXPONENT = 27  # of a scale, biased: stands for 2**-100
MULTIPLE = 16  # of a layer's input and output sizes, required by the matrix units


class Fp8MatmulLinear(ScaledLinear):
    """A `ScaledLinear` that multiplies in fp8: lossy, because the input keeps only 3 bits of mantissa.

    Every row of the input has its own scale, so that one large token does not affect the others. Sums are float32.
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
    """``n i`` -> float8 ``n i`` and float32 scales ``n 1``; their product approximates `x`.

    A scale is the smallest power of two that brings the row's largest value into float8's range. Dividing by it is
    exact in bfloat16, and the same on every device.
    """
    x = x if x.dtype == torch.bfloat16 else x.float()
    largest = torch.linalg.vector_norm(x, ord=float("inf"), dim=-1, keepdim=True).float()
    exponent = ((largest.view(torch.int32) + OVER_LARGEST) >> MANTISSA) - LARGEST_EXPONENT
    exponent = exponent.clamp(min=SMALLEST_EXPONENT)  # for rows of zeros too, so that the inverse is finite
    scale = (exponent << MANTISSA).view(torch.float32)
    inverse = ((2 * BIAS - exponent) << MANTISSA).view(torch.float32).to(x.dtype)
    if torch.compiler.is_compiling():  # the compiler fuses it into one pass
        return (x * inverse).to(FLOAT8), scale
    rows = torch.empty_like(x, dtype=FLOAT8)
    count = max(1, VALUES_AT_ONCE // x.shape[1])
    for part, own, out in zip(x.split(count), inverse.split(count), rows.split(count), strict=True):
        out.copy_(part * own)
    return rows, scale


def use_fp8_matmuls(module: nn.Module) -> int:
    """Makes every scaled layer of `module` with suitable sizes multiply in fp8; returns their number."""
    found = [
        (name, layer)
        for name, layer in module.named_modules()
        if type(layer) is ScaledLinear and not (layer.in_features % MULTIPLE or layer.out_features % MULTIPLE)
    ]
    for name, layer in found:
        product = Fp8MatmulLinear(layer.in_features, layer.out_features, bias=False, device="meta")
        product.weight, product.weight_scale, product.bias = layer.weight, layer.weight_scale, layer.bias
        module.set_submodule(name, product)
    return len(found)


def has_fp8_matmuls(device: torch.device | str) -> bool:
    """Whether the device supports fp8 matmuls: tries a small one on CUDA. (A CPU only emulates them.)"""
    if torch.device(device).type != "cuda":
        return False
    layer = Fp8MatmulLinear(MULTIPLE, MULTIPLE, bias=False, device=device)
    layer.weight.data.fill_(1)
    layer.weight_scale.data.fill_(1)
    try:
        return bool(layer(torch.ones(MULTIPLE, MULTIPLE, device=device, dtype=torch.bfloat16)).eq(MULTIPLE).all())
    except (RuntimeError, ValueError, NotImplementedError):
        return False
