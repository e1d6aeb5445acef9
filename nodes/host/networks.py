"""The smaller networks that the host's memory manager owns: the reference network and wav2vec2."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management as management
import torch
from torch import Tensor, nn

from ...hallo3_core.inputs.audio import load_wav2vec
from ...hallo3_core.model.config import Grid
from ...hallo3_core.release.detect import expect
from ...hallo3_core.runtime.activations import reference_bytes
from ...hallo3_core.weights import names
from ...hallo3_core.weights.kinds import WAV2VEC
from ..types import Network
from .checkpoint import read_transformers
from .memory import WholePatcher, hosted_part, on_device


class Holder(nn.Module):
    """Wraps a model of another library whose `device` is read-only, because the host sets that attribute."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model


def load_reference_net(path: Path, choice: str) -> Network:
    """Loads the reference network of a file or release; `choice` is a key of `memory.DTYPES`.

    Raises:
        InputError: not a Hallo3 reference network, or a damaged one.
    """
    return hosted_part(read_transformers(path, names.REFERENCE_NET), names.REFERENCE_NET, choice, path.name)


def run_reference_net(network: Network, latent: Tensor) -> list[Tensor]:
    """Scaled latent ``b 16 h w`` -> the reference bank, ``b n D`` per layer, on the CPU."""
    config, (samples, _, h, w) = network.module.config, latent.shape
    grid = Grid(1, h // config.patch, w // config.patch)
    with on_device(network, reference_bytes(config, grid, samples, network.dtype)) as module:
        bank = module(latent.to(network.patcher.load_device, network.dtype))
        return [features.cpu() for features in bank]


def load_wav2vec_network(path: Path) -> Network:
    """Loads wav2vec2 from a folder, or from a file with its config.json beside it, in float32 as in the original.

    Raises:
        InputError: not wav2vec2, or damaged.
    """
    if not path.is_dir():
        expect(path, WAV2VEC)
    holder = Holder(load_wav2vec(path).model)
    patcher = WholePatcher(
        holder,
        load_device=management.text_encoder_device(),
        offload_device=management.text_encoder_offload_device(),
    )
    return Network(holder, patcher, torch.float32, path.name)
