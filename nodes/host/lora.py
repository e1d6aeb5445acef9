"""LoRAs, made for CogVideoX or trained here, as the host's patches, which it can stream, undo and stack."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.lora
import torch
from torch import Tensor

from ...hallo3_core.errors import InputError
from ...hallo3_core.release.lora.file import LoraFile
from ...hallo3_core.release.lora.matching import LoraPatches
from ...hallo3_core.release.lora.patch import Patch
from ...hallo3_core.weights import names
from ..types import Network
from .model import PROJECTORS, projectors_of, require_model

log = logging.getLogger(__name__)


def with_lora(patcher: Any, reference_net: Network | None, path: Path, strength: float) -> tuple[Any, Network | None]:
    """Clones the MODEL, its projectors and the reference network, each with its part of the LoRA.

    Raises:
        InputError: not a Hallo3 model, or a LoRA that changes nothing in it.
    """
    file = LoraFile.open(path)
    lora = file.of_denoiser(require_model(patcher).diffusion_model.config)
    for note in lora.notes:
        log.warning("%s: %s", path.name, note)
    file.warn_of_other_base(_unpatched(patcher, "diffusion_model."))
    clone = _patched(patcher, lora, strength, "diffusion_model.")
    projectors = projectors_of(patcher)
    audio = _with_part(projectors.audio, names.AUDIO_PROJECTOR, file, strength)
    face = _with_part(projectors.face, names.FACE_PROJECTOR, file, strength)
    if (audio, face) != (projectors.audio, projectors.face):
        clone.set_attachments(PROJECTORS, replace(projectors, audio=audio, face=face))
    if reference_net is None and file.changes(names.REFERENCE_NET):
        log.warning(
            "%s changes the reference network too: connect reference_net to this node, and its output to Hallo3 "
            "Reference",
            path.name,
        )
    return clone, _with_part(reference_net, names.REFERENCE_NET, file, strength)


def _unpatched(patcher: Any, prefix: str) -> dict[str, Tensor]:
    """The network's own weights. While it has changes in them, the host keeps a copy of what they were."""
    kept = getattr(patcher, "backup", {})
    own = patcher.model.state_dict().items()
    return {n.removeprefix(prefix): kept[n].weight if n in kept else t for n, t in own if n.startswith(prefix)}


def _with_part(network: Network | None, part: str, file: LoraFile, strength: float) -> Network | None:
    """Returns the network with its part of the LoRA, or the network itself if there is none."""
    if network is None:
        return None
    shapes = {name: tuple(tensor.shape) for name, tensor in network.module.state_dict().items()}
    lora = file.of_part(part, shapes)
    return replace(network, patcher=_patched(network.patcher, lora, strength)) if lora.patches else network


def _patched(patcher: Any, lora: LoraPatches, strength: float, prefix: str = "") -> Any:
    """Clones a network's patcher with the LoRA's patches. `prefix` starts the names of the network's tensors."""
    clone = patcher.clone()
    own = clone.model.state_dict()
    for patch in lora.patches:
        patches = host_patches(patch, own[prefix + patch.target.name].ndim, prefix)
        taken = clone.add_patches(patches, strength)
        if len(taken) != len(patches):
            raise InputError(
                f"{Path(lora.label).name}: the host took {len(taken)} of {len(patches)} changes. Report this as a bug."
            )
    return clone


def host_patches(patch: Patch, ndim: int, prefix: str) -> dict[tuple[str, tuple[int, int, int]], Any]:
    """Converts a patch to the host's form: (key, (dimension, start, rows)) -> change. Weight and bias are separate."""
    target = patch.target
    rows = (0, target.start, target.rows)
    pair: dict[str, Tensor] = {
        "pair.lora_up.weight": patch.up,
        "pair.lora_down.weight": patch.down,
        "pair.alpha": torch.tensor(patch.scale * len(patch.down)),  # the host divides by the rank
    }
    if patch.magnitude is not None:
        pair["pair.dora_scale"] = patch.magnitude.float().reshape(*patch.magnitude.shape, *[1] * (ndim - 2))
    patches = dict(comfy.lora.load_lora(pair, {"pair": (prefix + target.name, rows)}))
    if patch.bias is not None:
        patches[f"{prefix}{target.name.removesuffix('weight')}bias", rows] = ("diff", (patch.bias,))
    return patches
