"""int8 weights: the same tensors as in fp8 (`fp8.py`), with one scale per row, rotated before they are rounded.

Names and values are those of ComfyUI's format `int8_tensorwise` with its option `convrot`: `<layer>.weight` (int8,
``o i``), `<layer>.weight_scale` (float32, ``o 1``; the rotated weight is their product) and `<layer>.comfy_quant` (JSON
as bytes: the format, and the columns that are rotated together).

A scale is rounded up to a bfloat16 number, so that a layer that computes in bfloat16 reads it exactly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InputError
from ..model.scaled import rotate
from .fp8 import MARK, SCALE, is_rounded, largest_magnitude

FORMAT = "int8_tensorwise"
LARGEST = 127
GROUPS = (256, 64, 16, 4)  # the first that divides a layer's columns; 256 at the released sizes
SMALLEST = 2.0**-100  # of a scale, so that a row of zeros stays zero


def group_of(columns: int) -> int:
    """Columns that are rotated together in a matrix of so many; 0 for none."""
    return next((group for group in GROUPS if columns % group == 0), 0)


def mark(group: int, *, matmul: bool = False) -> Tensor:
    """The value of `<layer>.comfy_quant`: uint8, padded with spaces so that the next tensor in a file is aligned.

    matmul: let ComfyUI multiply in int8, which rounds the activations too.
    """
    content: dict = {"format": FORMAT}
    if group:
        content |= {"convrot": True, "convrot_groupsize": group}
    if not matmul:
        content["full_precision_matrix_mult"] = True
    text = json.dumps(content).encode()
    return torch.tensor(list(text + b" " * (-len(text) % 8)), dtype=torch.uint8)


def quantise(rows: Tensor, name: str = "weight") -> tuple[Tensor, Tensor]:
    """Rows ``n i`` of a weight in any float dtype -> int8 ``n i`` and float32 scales ``n 1``.

    Raises:
        InputError: they hold NaN or infinity.
    """
    if not torch.isfinite(largest_magnitude(rows)):
        raise InputError(f"{name} holds NaN or infinity: it cannot be rounded to int8. Choose bf16, or another file.")
    values = rotate(rows.to(torch.float32, copy=True), group_of(rows.shape[1]))
    exact = (values.abs().amax(dim=1, keepdim=True) / LARGEST).clamp_min(SMALLEST)
    bits = exact.view(torch.int32)
    scale = ((bits + 0xFFFF) >> 16 << 16).view(torch.float32)  # rounded up to the 16 bits that bfloat16 keeps
    return values.div_(scale).round_().clamp_(-LARGEST, LARGEST).to(torch.int8), scale


def rounded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors with the large matrices rounded to int8, each with its scales and mark. What has a scale
    already stays.

    Raises:
        InputError: as `quantise`.
    """
    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor
        layer = name.removesuffix(".weight")
        if is_rounded(name) and f"{layer}.{SCALE}" not in tensors:
            result[name], result[f"{layer}.{SCALE}"] = quantise(tensor, name)
            result[f"{layer}.{MARK}"] = mark(group_of(tensor.shape[1]))
    return result
