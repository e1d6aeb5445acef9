"""Ways to decode a clip, from fast to small, for when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..model.denoiser import Denoiser
from ..runtime.devices import free_cached_memory
from ..runtime.streaming import StreamedBlocks
from ..vae.autoencoder import VideoVae
from ..vae.causal_conv import caches_in_host_memory
from ..vae.latents import decode_tiled, decode_whole

WHOLE = "whole"
ALONE = "whole, with the denoiser in host memory meanwhile"
LEAN = "whole, with all that is not computed with in host memory"
TILED = "in tiles"

Decode = Callable[[VideoVae, Tensor], Tensor]  # a scaled latent -> its frames ``n 3 H W`` in 0..1


def decoding_ways(denoiser: Denoiser, device: torch.device | str) -> dict[str, Decode]:
    """By name. The frames are the same but for tiles, which are nearly so.

    A 480x720 clip takes 7.4 GB beside the VAE's weights, which is more than a card may have left beside the denoiser;
    without the frames that the VAE keeps between chunks 4.8, and in tiles a third of it.
    """

    def alone(vae: VideoVae, latent: Tensor) -> Tensor:
        with elsewhere(denoiser, device):
            return decode_whole(vae, latent)

    def lean(vae: VideoVae, latent: Tensor) -> Tensor:
        with elsewhere(denoiser, device), caches_in_host_memory(vae.autoencoder):
            return decode_whole(vae, latent)

    if torch.device(device).type == "cpu":
        return {WHOLE: decode_whole, TILED: decode_tiled}
    return {WHOLE: decode_whole, ALONE: alone, LEAN: lean, TILED: decode_tiled}


@contextmanager
def elsewhere(denoiser: Denoiser, device: torch.device | str) -> Iterator[None]:
    """The denoiser's blocks leave the device, and come back at the end, which takes seconds. Streamed ones stay, since
    two of them are all that is there."""
    if isinstance(denoiser.blocks, StreamedBlocks):
        yield
        return
    denoiser.blocks.to("cpu")
    free_cached_memory()
    try:
        yield
    finally:
        denoiser.blocks.to(device)
