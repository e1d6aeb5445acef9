"""fp8 weights: which tensors are rounded, how, and how files name them.

Only the large matrices of the blocks are rounded, with one scale per tensor; norms, biases, embeddings, tables, the
modulation, the projectors and the VAE stay in bfloat16.

The scale is a power of two, so a value times its scale is exact in bfloat16 and float16: the rounding to 3 bits of
mantissa is the only error. (A float's relative precision is the same over its whole range, so aligning the largest
weight exactly with the largest float8 would gain nothing: see docs/files.md.)

Names are those of ComfyUI's per-layer quantisation, which its own layers read: `<layer>.weight` (float8),
`<layer>.weight_scale` (float32, no dimensions; the weight is their product) and `<layer>.comfy_quant` (JSON as bytes:
the format's name).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InputError

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max  # 448
SCALE, MARK = "weight_scale", "comfy_quant"

_EXACT = {"full_precision_matrix_mult": True}  # ComfyUI may use fp8 matmuls, which round the activations too: not here
_LAYERS = re.compile(
    r"blocks\.\d+\.(self_attention\.(qkv|out)|(face|audio)_attention\.(query|key_value|out)|mlp\.(up|down))\.weight"
)


def is_rounded(name: str) -> bool:
    """Whether the tensor of this name (ours) is stored in fp8."""
    return _LAYERS.fullmatch(name) is not None


def mark(form: str = "float8_e4m3fn", *, matmul: bool = False) -> Tensor:
    """The value of `<layer>.comfy_quant`: uint8, padded with spaces so that the next tensor in a file is aligned.

    matmul: let ComfyUI use fp8 matmuls, which round the activations too.
    """
    text = json.dumps({"format": form} | ({} if matmul else _EXACT)).encode()
    return torch.tensor(list(text + b" " * (-len(text) % 8)), dtype=torch.uint8)


def largest_magnitude(values: Tensor) -> Tensor:
    """Largest absolute value of a non-empty tensor; NaN if it holds one. (By far the fastest way on a CPU.)"""
    return torch.stack(torch.aminmax(values)).abs().amax()


def quantise(weight: Tensor, name: str = "weight") -> tuple[Tensor, Tensor]:
    """A weight of any float dtype -> float8 of the same shape, and its scale (float32, no dimensions).

    Raises:
        InputError: the weight holds NaN or infinity, which would ruin the whole tensor.
    """
    largest = largest_magnitude(weight).float()
    if not torch.isfinite(largest):
        raise InputError(f"{name} holds NaN or infinity: it cannot be rounded to fp8. Choose bf16, or another file.")
    exponent = torch.ceil(torch.log2(largest / LARGEST)) if largest > 0 else torch.zeros(())
    scale = torch.exp2(exponent.clamp(-100, 100))
    return weight.to(torch.float32, copy=True).div_(scale).clamp_(-LARGEST, LARGEST).to(FLOAT8), scale


def rounded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors with the large matrices rounded to fp8, each with its scale and mark. What has a scale
    already stays.

    Raises:
        InputError: as `quantise`.
    """
    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor
        layer = name.removesuffix(".weight")
        if is_rounded(name) and tensor.dtype != FLOAT8 and f"{layer}.{SCALE}" not in tensors:
            result[name], result[f"{layer}.{SCALE}"] = quantise(tensor, name)
            result[f"{layer}.{MARK}"] = mark()
    return result
