"""How decoding a clip falls back to less memory when it runs out."""

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
OFFLOAD_DENOISER = "whole, with the denoiser in host memory meanwhile"
OFFLOAD_ALL = "whole, with the denoiser and the VAE's caches in host memory meanwhile"
TILED = "in tiles"

Decode = Callable[[VideoVae, Tensor], Tensor]  # a scaled latent -> its frames ``n 3 H W`` in 0..1


def decoding_fallbacks(denoiser: Denoiser, device: torch.device | str) -> dict[str, Decode]:
    """Modes by name. All give the same frames, except that tiled frames differ slightly.

    Decoding a 480x720 clip takes 7.4 GB besides the VAE's weights, more than a GPU may have free next to the denoiser.
    It takes 4.8 GB with the VAE's caches in host memory, and a third of the 7.4 GB in tiles.
    """

    def offload_denoiser(vae: VideoVae, latent: Tensor) -> Tensor:
        with offloaded(denoiser, device):
            return decode_whole(vae, latent)

    def offload_all(vae: VideoVae, latent: Tensor) -> Tensor:
        with offloaded(denoiser, device), caches_in_host_memory(vae.autoencoder):
            return decode_whole(vae, latent)

    if torch.device(device).type == "cpu":
        return {WHOLE: decode_whole, TILED: decode_tiled}
    return {WHOLE: decode_whole, OFFLOAD_DENOISER: offload_denoiser, OFFLOAD_ALL: offload_all, TILED: decode_tiled}


@contextmanager
def offloaded(denoiser: Denoiser, device: torch.device | str) -> Iterator[None]:
    """Moves the denoiser's blocks to host memory for the duration, which takes seconds each way. Streamed blocks are
    not moved: the device holds only two of them."""
    if isinstance(denoiser.blocks, StreamedBlocks):
        yield
        return
    denoiser.blocks.to("cpu")
    free_cached_memory()
    try:
        yield
    finally:
        denoiser.blocks.to(device)
