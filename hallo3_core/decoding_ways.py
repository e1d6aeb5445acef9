"""Ways to decode a clip, from fast to small, for when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .faults import free_cached_memory
from .latents import decode_tiled, decode_whole
from .model.denoiser import Denoiser
from .streaming import StreamedBlocks
from .vae import VideoVae

WHOLE = "whole"
ALONE = "whole, with the denoiser in host memory meanwhile"
TILED = "in tiles"

Decode = Callable[[VideoVae, Tensor], Tensor]  # a scaled latent -> its frames ``n 3 H W`` in 0..1


def decoding_ways(denoiser: Denoiser, device: torch.device | str) -> dict[str, Decode]:
    """By name. The frames are the same but for tiles, which are nearly so.

    The VAE needs 8 GB for a 480x720 clip, which is less than what the denoiser's weights take.
    """
    ways: dict[str, Decode] = {WHOLE: decode_whole}
    if torch.device(device).type != "cpu" and not isinstance(denoiser.blocks, StreamedBlocks):
        ways[ALONE] = partial(decode_alone, denoiser, device)
    ways[TILED] = decode_tiled
    return ways


def decode_alone(denoiser: Denoiser, device: torch.device | str, vae: VideoVae, latent: Tensor) -> Tensor:
    """The denoiser's blocks leave the device and come back, which takes seconds."""
    if isinstance(denoiser.blocks, StreamedBlocks):  # since sampling met the end of the memory too
        return decode_whole(vae, latent)
    denoiser.blocks.to("cpu")
    free_cached_memory()
    try:
        return decode_whole(vae, latent)
    finally:
        denoiser.blocks.to(device)
