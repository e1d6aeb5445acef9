"""The jointly trained networks: their parts, their parameters' names in the release, and their inputs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..model.config import Grid, TransformerConfig
from ..model.hallo3 import Hallo3
from ..model.positions import Layout, Rotary, rotary_table
from ..model.trunk import Trunk
from ..weights import names
from .draw import Drawn

PARTS = (names.DENOISER, names.REFERENCE_NET, names.FACE_PROJECTOR, names.AUDIO_PROJECTOR)


def parts(networks: Hallo3) -> Iterator[tuple[str, nn.Module]]:
    """Yields the networks that exist, by their names in `weights/names.py`, which are also the attribute names."""
    for part in PARTS:
        if getattr(networks, part) is not None:
            yield part, getattr(networks, part)


def official_names(networks: Hallo3) -> dict[str, str]:
    """Maps every parameter's name to its name in the release's file (two learned tables share one). Scales of fp8
    matrices have none."""
    found = {}
    for part, module in parts(networks):
        official = names.official_names(part, networks.denoiser.config.layers)
        found |= {f"{part}.{name}": official[name] for name, _ in module.named_parameters() if name in official}
    return found


class Layouts:
    """Gives the positions of a clip, as `Trunk.layout` does, and keeps the rotary tables, which are not trained.
    Computing them at every step would cost a small network more than a layer. Learned tables are read every time."""

    def __init__(self) -> None:
        self._rotary: dict[tuple, Rotary] = {}

    def __call__(self, network: Trunk, grid: Grid, dtype: torch.dtype, device: torch.device) -> Layout:
        config = network.config
        key = (grid, config.grid, config.head, device)
        if key not in self._rotary:
            self._rotary[key] = rotary_table(grid, config.grid, config.head, device)
        return network.layout(grid, dtype, device, self._rotary[key])


def read_by(networks: Hallo3, drawn: Drawn, dtype: torch.dtype) -> dict[str, Tensor | None]:
    """The drawn conditions that these networks read, in `dtype`, by the arguments of `Hallo3.conditions`."""
    has = dict(parts(networks))
    return {
        "text": drawn.text.to(dtype),
        "portrait": drawn.reference.to(dtype) if names.REFERENCE_NET in has else None,
        "face": drawn.face.to(dtype) if names.FACE_PROJECTOR in has else None,
        "audio": drawn.audio.to(dtype) if names.AUDIO_PROJECTOR in has else None,
    }


def rotary_tensors(config: TransformerConfig) -> dict[str, Tensor]:
    """The rotary tables of the release's file, which its grid is read from; names without prefix."""
    table = rotary_table(config.grid, config.grid, config.head)
    cosines = "mixins.pos_embed.freqs_cos"
    return {
        names.ROTARY: table.sin.repeat_interleave(2, dim=1),
        cosines: table.cos.repeat_interleave(2, dim=1),
    }
