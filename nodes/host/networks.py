"""The smaller networks under the host's memory manager: reference network and wav2vec2."""

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
from .checkpoint import read_engine
from .memory import WholePatcher, hosted_part, on_device


class Holder(nn.Module):
    """Holds another library's model, whose read-only `device` the host could not set."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model


def load_reference_net(path: Path, choice: str) -> Network:
    """The reference network of a file or release; `choice` is a key of `memory.DTYPES`.

    Raises:
        InputError: not a Hallo3 reference network, or a damaged one.
    """
    return hosted_part(read_engine(path, names.REFERENCE_NET), names.REFERENCE_NET, choice, path.name)


def run_reference_net(network: Network, latent: Tensor) -> list[Tensor]:
    """``b 16 h w`` (scaled) -> the reference bank, ``b n D`` a layer, on the CPU."""
    config, (samples, _, h, w) = network.module.config, latent.shape
    grid = Grid(1, h // config.patch, w // config.patch)
    with on_device(network, reference_bytes(config, grid, samples, network.dtype)) as module:
        bank = module(latent.to(network.patcher.load_device, network.dtype))
        return [features.cpu() for features in bank]


def load_wav2vec_network(path: Path) -> Network:
    """wav2vec2 of a folder, or of a file with its config.json beside it, in float32 as the original runs it.

    Raises:
        InputError: something else, or damaged.
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
