"""LoRA training: PEFT adapters on the matrices of named groups, and their file.

A group is what a user wants to teach: `look` (a style, a show) is the denoiser's self-attention; `identity` (a face) is
the reference network's attention and the denoiser's face attention; `speech` (a language, a voice) is audio attention
and the audio projections.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import InputError, require
from ..model.hallo3 import Hallo3
from ..release.lora.base import KEY as BASE_VALUES
from ..release.lora.base import base_text
from ..release.lora.keys import PART_PREFIXES
from ..weights import names
from ..weights.writing import NewTensor, write_streamed

GROUPS = {
    "look": (r"denoiser\.blocks\.\d+\.self_attention\.(qkv|out)",),
    "identity": (
        r"reference_net\.blocks\.\d+\.self_attention\.(qkv|out)",
        r"denoiser\.blocks\.\d+\.(face_attention\.(query|key_value|out)|face_adaption\.linear)",
    ),
    "speech": (
        r"denoiser\.blocks\.\d+\.(audio_attention\.(query|key_value|out)|audio_tokens\.proj|audio_adaption\.linear)",
        r"audio_projector\.(proj1|proj2|proj3|halve)",
    ),
}
FILE = "lora.safetensors"  # not a name that a release folder recognises as its transformer file
CARD = "hallo3_training"
DENOISER_PREFIX = "diffusion_model."  # as in other programs' files
_ADAPTER = "default"  # PEFT's name for the only adapter


@dataclass(frozen=True)
class Lora:
    """A LoRA's groups and size; its update is scaled by alpha / rank."""

    groups: tuple[Literal["look", "identity", "speech"], ...] = ("look", "identity")
    rank: int = 32
    alpha: float = 32.0


def add_lora(networks: Hallo3, lora: Lora, seed: int) -> set[str]:
    """Adds an adapter to every matrix of the groups; initially it changes nothing. Returns the trained names.

    Raises:
        InputError: PEFT is not installed, or a group matches nothing in these networks.
    """
    peft = require("peft", "peft", "training a LoRA")
    modules = [name for name, module in networks.named_modules() if isinstance(module, nn.Linear | nn.Conv1d)]
    for group in lora.groups:
        if not any(re.fullmatch(pattern, name) for pattern in GROUPS[group] for name in modules):
            raise InputError(
                f"lora.groups: {group} has no modules in these networks. Leave it out, or start from others."
            )
    patterns = "|".join(pattern for group in lora.groups for pattern in GROUPS[group])
    settings = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=f"({patterns})")
    with torch.random.fork_rng(devices=[]):  # PEFT draws from the global generator: restore its state
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, networks, adapter_name=_ADAPTER)
    return {name for name, _ in networks.named_parameters() if ".lora_" in name}


def file_tensors(trained: Mapping[str, Tensor], lora: Lora, dtype: torch.dtype) -> dict[str, Tensor]:
    """Converts trained parameters, by PEFT's names, to the file's tensors, with an alpha for each adapter."""
    prefixes = {part: prefix for prefix, part in PART_PREFIXES.items()} | {names.DENOISER: DENOISER_PREFIX}
    found = {}
    for name, value in trained.items():
        part, _, rest = name.partition(".")
        key = prefixes[part] + rest.replace(f".{_ADAPTER}.weight", ".weight")
        found[key] = value.to(dtype)
        found[key.rpartition(".lora_")[0] + ".alpha"] = torch.tensor(lora.alpha, dtype=torch.float32)
    return found


def write_lora(
    path: Path,
    trained: Mapping[str, Tensor],
    lora: Lora,
    card: Mapping[str, object],
    base: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> None:
    """Writes one file for all networks: the LoRA and its provenance, without base weights. `base` is the denoiser that
    it was trained on, in our names: a few of its values tell a later program whether it has the same.

    Raises:
        InputError: the file cannot be written.
    """
    tensors = file_tensors(trained, lora, dtype)
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    entries = [NewTensor(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in ordered]
    metadata = {
        "rank": str(lora.rank),
        "alpha": f"{lora.alpha:g}",
        "groups": ",".join(lora.groups),
        "base": str(card["start"]),
        BASE_VALUES: base_text(base),
        CARD: json.dumps(card, sort_keys=True),
    }
    write_streamed(path, entries, (tensor.contiguous() for _, tensor in ordered), metadata)
