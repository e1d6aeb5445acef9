"""The jointly trained networks: their parts, their parameters' names in the release, and their forward pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..model.config import Grid, TransformerConfig
from ..model.hallo3 import Hallo3
from ..model.positions import Layout, Rotary, fitted_table, rotary_table
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


def predict(networks: Hallo3, noisy: Tensor, drawn: Drawn, dtype: torch.dtype) -> Tensor:
    """Predicts the velocity ``b 16 t h w``, float32, of a noisy latent from the drawn conditions; computes in `dtype`,
    that of the weights."""
    has = dict(parts(networks))
    return networks(
        noisy.to(dtype),
        drawn.concat.to(dtype),
        drawn.timesteps,
        drawn.text.to(dtype),
        portrait=drawn.reference.to(dtype) if names.REFERENCE_NET in has else None,
        face=drawn.face.to(dtype) if names.FACE_PROJECTOR in has else None,
        audio=drawn.audio.to(dtype) if names.AUDIO_PROJECTOR in has else None,
    ).float()


def hold_rotary(network: Trunk) -> None:
    """Makes a network keep its rotary tables, which depend on the grid and are not trained. Rebuilding them every step
    would cost a small network more than a layer. The learned tables are still read every time."""
    kept: dict[tuple, Rotary] = {}

    def layout(grid: Grid, dtype: torch.dtype, device: torch.device | str | None = None) -> Layout:
        config, place = network.config, device or network.video_positions.device
        if (grid, place) not in kept:
            kept[grid, place] = rotary_table(grid, config.grid, config.head, place)
        rotary = kept[grid, place]
        return Layout(
            grid=grid,
            text=network.text_positions.to(place, dtype),
            video=fitted_table(network.video_positions.to(place, dtype), grid, config.grid),
            rotary=rotary,
            frame_rotary=rotary.first_frame(grid),
        )

    network.layout = layout


def rotary_tensors(config: TransformerConfig) -> dict[str, Tensor]:
    """The rotary tables of the release's file, which its grid is read from; names without prefix."""
    table = rotary_table(config.grid, config.grid, config.head)
    cosines = "mixins.pos_embed.freqs_cos"
    return {
        names.ROTARY: table.sin.repeat_interleave(2, dim=1),
        cosines: table.cos.repeat_interleave(2, dim=1),
    }
