"""Normalises this model's converted files after other programs have saved them again.

ComfyUI's ModelSave and CheckpointSave put `model.diffusion_model.` before our names and `first_stage_model.` before the
VAE's. Older fp8 files store a layer's scale as `scale_weight`, and mark the file with a tensor `scaled_fp8`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from .fp8 import SCALE

SAVED = "model.diffusion_model."
_SAVED_MARK = SAVED + "video_positions"
_SAVED_VAE = re.compile(r"first_stage_model\.(?:[a-z]+\.)*?(?=(?:en|de)coder\.)")
_OLD_SCALE = ".scale_weight"
_INPUT_SCALES = (".scale_input", ".input_scale")
DROPPED = {
    "v_pred": "a mark of ComfyUI's",
    "ztsnr": "a mark of ComfyUI's",
    "scaled_fp8": "a mark of older fp8 files",
    "spiece_model": "a tokenizer that ComfyUI keeps with the weights",
}
T = TypeVar("T")


def in_our_form(named: Mapping[str, T]) -> dict[str, T]:
    """Renames tensors, or their descriptions, to our names and drops unneeded ones. Unknown names stay. No value is
    read."""
    is_saved = _SAVED_MARK in named
    found = {}
    for name, value in named.items():
        if why_dropped(name) is None:
            found[_renamed(name, is_saved)] = value
    return found


def why_dropped(name: str) -> str | None:
    """Why a tensor is not needed, if another program added it; else None."""
    if name.endswith(_INPUT_SCALES):
        return "a scale of activations, which are not rounded here"
    return DROPPED.get(name.removeprefix(SAVED))


def _renamed(name: str, is_saved: bool) -> str:
    if is_saved:
        name = name.removeprefix(SAVED)
        name = _SAVED_VAE.sub("", name, count=1)
    return name.removesuffix(_OLD_SCALE) + "." + SCALE if name.endswith(_OLD_SCALE) else name
