"""Trained weights in a quarter of their size: matrices as int8, each row with its own scale.

Rounding to 255 steps of a row's largest value changes a trained weight by less than training itself does from run to
run; what it costs is measured where the weights are made.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InputError

SCALE = ".row_scale"  # behind the name of a rounded tensor
STEPS = 127
SMALLEST = 1024  # values; smaller tensors are kept in float32


def pack_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name -> int8 matrices ``as before`` with scales ``rows`` float32 beside them, and small tensors as
    float32.

    Raises:
        ValueError: a value that is not finite, or a name that ends like a scale's.
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
    """The tensors that were packed, to half a step of their row's scale, in `dtype`.

    Raises:
        InputError: a matrix without its scales: not packed by `pack_tensors`, or damaged.
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
    """How many rows have a scale of their own: as many as the first dimension that is more than 1."""
    return next((size for size in tensor.shape if size > 1), 1)
