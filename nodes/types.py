"""Types passed between the nodes besides ComfyUI's own: socket names and the values they carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

REFERENCE_NET = "HALLO3_REFERENCE_NET"  # Network: a ReferenceNet
WAV2VEC = "HALLO3_WAV2VEC"  # Network: its module's `model` is transformers' wav2vec2
FACE_ANALYSIS = "HALLO3_FACE_ANALYSIS"  # hallo3_core.inputs.face.FaceAnalyser
AUDIO = "HALLO3_AUDIO"  # hallo3_core.inputs.audio.AudioFeatures
FACE = "HALLO3_FACE"  # hallo3_core.inputs.face.Face
REFERENCE = "HALLO3_REFERENCE"  # hallo3_core.inputs.portrait.Portrait, on the CPU, with the null's bank
MOTION = "HALLO3_MOTION"  # Motion
SHOWN = {AUDIO: "voice features"}  # what the page calls a socket whose key is the name of another of the host's types


@dataclass(frozen=True, eq=False)
class Network:
    """A network owned by the host's memory manager. Call it inside `host.memory.on_device(network)`, which yields
    `module`.

    `patcher` is the host's handle, `dtype` the compute dtype, `source` the file name for messages.
    """

    module: nn.Module
    patcher: Any
    dtype: torch.dtype
    source: str


@dataclass(frozen=True, eq=False)
class Motion:
    """Last frames of the preceding clip, ``n 3 H W`` in 0..1, on the CPU; `clip` is its number, if it is known."""

    frames: Tensor
    clip: int | None = None
