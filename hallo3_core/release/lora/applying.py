"""Applies LoRAs to a network in memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ...errors import InputError
from ...model.config import TransformerConfig
from ...model.scaled import ScaledLinear
from ...weights import names
from .file import LoraFile
from .matching import LoraPatches
from .patch import Patch, change_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Applied:
    """Names of our tensors that were changed, and the LoRA's keys that were not recognised."""

    names: tuple[str, ...]
    unknown: tuple[str, ...]


def apply_loras(
    module: nn.Module, part: str, loras: Sequence[tuple[LoraFile, float]], config: TransformerConfig | None = None
) -> None:
    """Applies all of these files to the network `part`, each at its strength; `config` is the denoiser's, and used only
    for it. A LoRA that was trained on another denoiser is applied with a warning.

    Raises:
        InputError: a file that is not a LoRA for this model, or a strength that is NaN or infinite.
    """
    if part == names.DENOISER:  # before any is applied
        weights = module.state_dict()
        for file, _ in loras:
            file.warn_of_other_base(weights)
    for file, strength in loras:
        if part == names.DENOISER:
            patches = file.of_denoiser(config)
        else:
            patches = file.of_part(part, {name: tuple(p.shape) for name, p in module.named_parameters()})
        apply_lora(module, patches, strength)


def apply_lora(module: nn.Module, lora: LoraPatches, strength: float = 1.0) -> Applied:
    """Applies a LoRA to a network's weights, computed in float32 and stored in their own dtype. Logs unknown keys.

    Rounding to fp8 would lose most of a LoRA, so an fp8 layer becomes an ordinary one in the dtype of its bias, twice
    as large.

    Raises:
        InputError: a strength that is NaN or infinite.
    """
    if not math.isfinite(strength):
        raise InputError(f"{lora.label}: strength {strength}, expected a number such as 1")
    by_name: dict[str, list[Patch]] = {}
    for patch in lora.patches:
        by_name.setdefault(patch.target.name, []).append(patch)
    widened = 0
    for name, patches in by_name.items():
        layer = module.get_submodule(name.removesuffix(".weight"))
        dtype = layer.weight.dtype
        if isinstance(layer, ScaledLinear):
            layer, dtype = _widened(module, name.removesuffix(".weight")), layer.bias.dtype
            widened += 1
        weight = layer.weight.detach().to(torch.float32, copy=True)
        for patch in patches:
            rows = weight.flatten(1)[patch.target.start : patch.target.start + patch.target.rows]  # a view
            rows.add_(change_of(rows, patch), alpha=strength)
            if patch.bias is not None:
                _shift(layer, patch, strength)
        layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    if widened:
        log.warning("%s: %d layers are no longer in 8 bits, to hold it", lora.label, widened)
    for note in lora.notes:
        log.warning("%s: %s", lora.label, note)
    return Applied(tuple(by_name), lora.unknown)


def _shift(layer: nn.Module, patch: Patch, strength: float) -> None:
    bias = layer.bias.detach().to(torch.float32, copy=True)
    bias[patch.target.start : patch.target.start + patch.target.rows] += strength * patch.bias.to(bias.device)
    layer.bias = nn.Parameter(bias.to(layer.bias.dtype), requires_grad=False)


def _widened(module: nn.Module, name: str) -> nn.Linear:
    """Replaces the fp8 layer of this name with an ordinary one of the same weight, in float32 for now."""
    scaled = module.get_submodule(name)
    linear = nn.Linear(scaled.in_features, scaled.out_features, device="meta")
    linear.weight = nn.Parameter(scaled.full_weight(torch.float32), requires_grad=False)
    linear.bias = scaled.bias
    module.set_submodule(name, linear)
    return linear
