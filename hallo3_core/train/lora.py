"""LoRAs in training: pairs beside the matrices of named groups, by PEFT, and the file that they are kept in.

A group is what people want to teach: `look` (a style, a show) is the denoiser's self-attention; `identity` (a face) the
reference network's and how the denoiser reads the face; `speech` (a language, a voice) how sound is read and projected.
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
from ..release.lora_names import PART_PREFIXES
from ..weights import names
from ..weights.writing import Entry, write_streamed

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
FILE = "lora.safetensors"  # no name that a release's folder takes for its transformers
CARD = "hallo3_training"
DENOISER_PREFIX = "diffusion_model."  # as other programs call it
_ADAPTER = "default"  # PEFT's name of the only one


@dataclass(frozen=True)
class Lora:
    """What a LoRA changes and how large it is; a pair counts alpha / rank."""

    groups: tuple[Literal["look", "identity", "speech"], ...] = ("look", "identity")
    rank: int = 32
    alpha: float = 32.0


def add_lora(networks: Hallo3, lora: Lora, seed: int) -> set[str]:
    """Put a pair beside every matrix of the groups; at first they change nothing. Returns the names of what trains.

    Raises:
        InputError: PEFT is not installed, or a group has nothing in these networks.
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
    with torch.random.fork_rng(devices=[]):  # PEFT draws from the global generator, and nobody else shall see that
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, networks, adapter_name=_ADAPTER)
    return {name for name, _ in networks.named_parameters() if ".lora_" in name}


def file_tensors(trained: Mapping[str, Tensor], lora: Lora, dtype: torch.dtype) -> dict[str, Tensor]:
    """Trained parameters by PEFT's names -> a file's tensors, an alpha beside each pair."""
    prefixes = {part: prefix for prefix, part in PART_PREFIXES.items()} | {names.DENOISER: DENOISER_PREFIX}
    found = {}
    for name, value in trained.items():
        part, _, rest = name.partition(".")
        key = prefixes[part] + rest.replace(f".{_ADAPTER}.weight", ".weight")
        found[key] = value.to(dtype)
        found[key.rpartition(".lora_")[0] + ".alpha"] = torch.tensor(lora.alpha, dtype=torch.float32)
    return found


def write_lora(
    path: Path, trained: Mapping[str, Tensor], lora: Lora, card: Mapping[str, object], dtype: torch.dtype
) -> None:
    """One file for all networks, which holds the LoRA and what it was made from, and nothing of the base.

    Raises:
        InputError: it can't be written.
    """
    tensors = file_tensors(trained, lora, dtype)
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    entries = [Entry(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in ordered]
    metadata = {
        "rank": str(lora.rank),
        "alpha": f"{lora.alpha:g}",
        "groups": ",".join(lora.groups),
        "base": str(card["start"]),
        CARD: json.dumps(card, sort_keys=True),
    }
    write_streamed(path, entries, (tensor.contiguous() for _, tensor in ordered), metadata)
