"""Quantised layers of any file: reads their marks, and dequantises those that a reader cannot keep."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InputError
from ..model.scaled import rotate
from . import int8
from .fp8 import FLOAT8, MARK, SCALE, is_rounded
from .fp8 import mark as fp8_mark

FLOATS = {torch.float8_e4m3fn: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2"}  # the formats' names in marks
FORMATS = (*FLOATS.values(), int8.FORMAT)


def settings_of(mark: Tensor | None) -> dict:
    """The content of a layer's mark, with its nested `params` beside the rest; empty if there is none, or none that can
    be read (a list of tensors has no values)."""
    if mark is None or mark.is_meta:
        return {}
    try:
        content = json.loads(bytes(mark.flatten().tolist()))
        params = content.get("params", {})
        return {**(params if isinstance(params, dict) else {}), **content}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}


def group_in(mark: Tensor | None) -> int:
    """Columns of an int8 layer that were rotated together; 0 for none."""
    settings = settings_of(mark)
    group = settings.get("convrot_groupsize", int8.GROUPS[0]) if settings.get("convrot") else 0
    return group if group in (0, *int8.GROUPS) else _refuse(f"int8 rotated in groups of {group!r:.40}")


def check_formats(tensors: Mapping[str, Tensor]) -> None:
    """Raises InputError if a layer's mark names a format that cannot be read here, such as nvfp4."""
    for name, tensor in tensors.items():
        if name.endswith(f".{MARK}"):
            found = settings_of(tensor).get("format")
            if found is not None and found not in FORMATS:
                _refuse(f"{name.removesuffix(f'.{MARK}')} in {found!r:.40}")


def layers_of(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of all layers whose weight has a scale."""
    ends = [name.removesuffix(f".{SCALE}") for name in tensors if name.endswith(f".{SCALE}")]
    return [layer for layer in ends if f"{layer}.weight" in tensors]


def dequantised(tensors: Mapping[str, Tensor], layer: str, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The whole weight of one layer, computed in float32."""
    weight, scale = tensors[f"{layer}.weight"], tensors[f"{layer}.{SCALE}"].float()
    group = group_in(tensors.get(f"{layer}.{MARK}")) if weight.dtype == torch.int8 else 0
    scale = scale.reshape(*scale.shape, *[1] * (weight.ndim - scale.ndim))
    return (rotate(weight.float(), group) * scale).to(dtype)


def multiplied_out(tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """The tensors with every quantised weight dequantised, without scales and marks."""
    layers = layers_of(tensors)
    scales = {f"{layer}.{end}" for layer in layers for end in (SCALE, MARK)}
    whole = {f"{layer}.weight": layer for layer in layers}
    return {
        name: dequantised(tensors, whole[name], dtype) if name in whole else tensor
        for name, tensor in tensors.items()
        if name not in scales
    }


def with_our_layers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keeps the quantised layers that ours can hold (`fp8.is_rounded`; float8 e4m3 with one scale, or int8), with our
    marks; dequantises all others to bfloat16.

    Raises:
        InputError: a format that cannot be read.
    """
    check_formats(tensors)
    found = dict(tensors)
    for layer in layers_of(tensors):
        weight, scale = tensors[f"{layer}.weight"], tensors[f"{layer}.{SCALE}"]
        ours = is_rounded(f"{layer}.weight") and weight.ndim == 2
        if ours and weight.dtype == FLOAT8 and scale.numel() == 1:
            found[f"{layer}.{SCALE}"], found[f"{layer}.{MARK}"] = scale.reshape(()).float(), fp8_mark()
        elif ours and weight.dtype == torch.int8 and scale.numel() in (1, len(weight)):
            rows = scale.float().reshape(-1, 1).expand(len(weight), 1).contiguous()
            found[f"{layer}.{SCALE}"], found[f"{layer}.{MARK}"] = (
                rows,
                int8.mark(group_in(tensors.get(f"{layer}.{MARK}"))),
            )
        else:
            found[f"{layer}.weight"] = dequantised(tensors, layer)
            found.pop(f"{layer}.{SCALE}")
            found.pop(f"{layer}.{MARK}", None)
    return found


def _refuse(what: str) -> int:
    raise InputError(f"its weights are quantised in a way that is not read here ({what}). Choose bf16, fp8 or int8.")
