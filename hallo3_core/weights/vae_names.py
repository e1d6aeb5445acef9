"""Names of the VAE's tensors in the official release and in diffusers.

Source: the two tensor lists. They differ in the names of levels, blocks and resamplers, and in the decoder's order: the
official levels are numbered by resolution (the coarsest, which runs first, is `up.3`), diffusers' in the order they
run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from ..errors import InputError

T = TypeVar("T")

LEVELS = 4  # three halvings of each side: 8 pixels per latent pixel
LOSS = "loss"  # training modules stored with the VAE: discriminator and perceptual network

_TO_DIFFUSERS = {
    f"{half}.mid.block_{n + 1}.": f"{half}.mid_block.resnets.{n}." for half in ("encoder", "decoder") for n in range(2)
}
for _level in range(LEVELS):
    _down, _up = f"encoder.down_blocks.{_level}", f"decoder.up_blocks.{LEVELS - 1 - _level}"
    _TO_DIFFUSERS |= {
        f"encoder.down.{_level}.block.": f"{_down}.resnets.",
        f"encoder.down.{_level}.downsample.": f"{_down}.downsamplers.0.",
        f"decoder.up.{_level}.block.": f"{_up}.resnets.",
        f"decoder.up.{_level}.upsample.": f"{_up}.upsamplers.0.",
    }
_TO_ORIGINAL = {theirs: official for official, theirs in _TO_DIFFUSERS.items()}


def to_diffusers(name: str) -> str:
    """The diffusers name of an official one; any other name is returned unchanged."""
    return _restem(name, _TO_DIFFUSERS).replace(".nin_shortcut.", ".conv_shortcut.")


def to_original(name: str) -> str:
    """The official name of a diffusers one; any other name is returned unchanged."""
    return _restem(name, _TO_ORIGINAL).replace(".conv_shortcut.", ".nin_shortcut.")


def in_diffusers_names(tensors: Mapping[str, T]) -> dict[str, T]:
    """Renames tensors (or their shapes) from either naming to diffusers names, and drops those of the training loss.

    Raises:
        InputError: a tensor is present under both names.
    """
    renamed: dict[str, T] = {}
    for name, tensor in tensors.items():
        if name.startswith(LOSS):
            continue
        target = to_diffusers(name)
        if target in renamed:
            raise InputError(f"the VAE's tensor {target} appears twice, once as {to_original(target)}")
        renamed[target] = tensor
    return renamed


def _restem(name: str, stems: Mapping[str, str]) -> str:
    for stem, other in stems.items():
        if name.startswith(stem):
            return other + name.removeprefix(stem)
    return name
