"""Packs trained weights into a quarter of their size: matrices as int8 with a scale per row.

Rounding to 255 steps of a row's largest value changes a weight by less than retraining does. The loss of quality is
measured when the weights are made.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InputError

SCALE = ".row_scale"  # suffix to the name of a rounded tensor
STEPS = 127
SMALLEST = 1024  # values; smaller tensors are kept in float32


def pack_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts tensors to int8 matrices of the same shape with float32 scales ``rows``, and small tensors to float32.

    Raises:
        ValueError: a value is not finite, or a name ends like that of a scale.
    """
    packed = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE):
            raise ValueError(f"{name} would be taken for a scale")
        tensor = tensor.detach().float().cpu()
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} has values that are not finite")
        if tensor.ndim < 2 or tensor.numel() < SMALLEST:
            packed[name] = tensor.contiguous()
            continue
        rows = tensor.reshape(_rows(tensor), -1)
        scale = rows.abs().amax(1).clamp(min=1e-12) / STEPS
        packed[name] = (rows / scale[:, None]).round().to(torch.int8).reshape(tensor.shape).contiguous()
        packed[name + SCALE] = scale
    return packed


def unpack_tensors(packed: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Restores packed tensors in `dtype`, to within half a step of their row's scale.

    Raises:
        InputError: a matrix has no scales: the file is damaged or not from `pack_tensors`.
    """
    tensors = {}
    for name, tensor in packed.items():
        if name.endswith(SCALE):
            continue
        if tensor.dtype == torch.int8:
            scale = packed.get(name + SCALE)
            if scale is None or scale.numel() != _rows(tensor):
                raise InputError(f"the toy weights are damaged: {name} has no scales. Install the package again.")
            rows = tensor.reshape(len(scale), -1).float() * scale[:, None]
            tensor = rows.reshape(tensor.shape)
        tensors[name] = tensor.to(dtype)
    return tensors


def _rows(tensor: Tensor) -> int:
    """Number of rows with their own scale: the first dimension larger than 1."""
    return next((size for size in tensor.shape if size > 1), 1)
