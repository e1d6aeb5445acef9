"""LoRAs made for CogVideoX, as patches of the host: streamed, undone and stacked by it like any other."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import comfy.lora
import torch
from torch import Tensor

from ...hallo3_core.errors import InputError
from ...hallo3_core.release.lora import Patch, read_lora
from .model import require_model

log = logging.getLogger(__name__)


def with_lora(patcher: Any, path: Path, strength: float) -> Any:
    """A clone of the MODEL with the LoRA added.

    Raises:
        InputError: not our model, or a LoRA that touches nothing in it.
    """
    lora = read_lora(path, require_model(patcher).diffusion_model.config)
    for note in lora.notes:
        log.warning("%s: %s", path.name, note)
    clone = patcher.clone()
    own = clone.model.state_dict()
    for patch in lora.patches:
        patches = host_patches(patch, own[f"diffusion_model.{patch.target.name}"].ndim)
        taken = clone.add_patches(patches, strength)
        if len(taken) != len(patches):
            raise InputError(
                f"{path.name}: the host took {len(taken)} of {len(patches)} changes. Report this as a bug."
            )
    return clone


def host_patches(patch: Patch, ndim: int) -> dict[tuple[str, tuple[int, int, int]], Any]:
    """A patch as the host's: (key, (dimension, start, rows)) -> what changes there. Weight and bias count as two."""
    target = patch.target
    rows = (0, target.start, target.rows)
    pair: dict[str, Tensor] = {
        "pair.lora_up.weight": patch.up,
        "pair.lora_down.weight": patch.down,
        "pair.alpha": torch.tensor(patch.scale * len(patch.down)),  # the host divides by the rank
    }
    if patch.magnitude is not None:
        pair["pair.dora_scale"] = patch.magnitude.float().reshape(*patch.magnitude.shape, *[1] * (ndim - 2))
    patches = dict(comfy.lora.load_lora(pair, {"pair": (f"diffusion_model.{target.name}", rows)}))
    if patch.bias is not None:
        patches[f"diffusion_model.{target.name.removesuffix('weight')}bias", rows] = ("diff", (patch.bias,))
    return patches
