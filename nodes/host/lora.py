"""LoRAs made for CogVideoX, as patches of the host: streamed, undone and stacked by it like any other."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import comfy.lora
import torch
from torch import Tensor

from ...hallo3_core.errors import InputError
from ...hallo3_core.release.lora import Lora, read_lora
from .model import require_model

log = logging.getLogger(__name__)


def with_lora(patcher: Any, path: Path, strength: float) -> Any:
    """A clone of the MODEL with the LoRA added.

    Raises:
        InputError: not our model, or a LoRA that touches nothing in it.
    """
    lora = read_lora(path, require_model(patcher).diffusion_model.config)
    if lora.unknown:
        log.warning("%s: %d keys of no use here, such as %s", path.name, len(lora.unknown), lora.unknown[0])
    pairs, places = host_form(lora)
    patches = comfy.lora.load_lora(pairs, places)
    clone = patcher.clone()
    taken = clone.add_patches(patches, strength)
    if len(taken) != len(places):
        raise InputError(f"{path.name}: the host took {len(taken)} of {len(places)} pairs. Report this as a bug.")
    return clone


def host_form(lora: Lora) -> tuple[dict[str, Tensor], dict[str, tuple[str, tuple[int, int, int]]]]:
    """The pairs under plain names, and the rows of our weight that each changes: (key, (dimension, start, rows))."""
    pairs: dict[str, Tensor] = {}
    places = {}
    for number, patch in enumerate(lora.patches):
        name, target = f"pair{number}", patch.target
        pairs[f"{name}.lora_up.weight"] = patch.up
        pairs[f"{name}.lora_down.weight"] = patch.down
        pairs[f"{name}.alpha"] = torch.tensor(patch.scale * len(patch.down))  # the host divides by the rank
        places[name] = (f"diffusion_model.{target.name}", (0, target.start, target.rows))
    return pairs, places
