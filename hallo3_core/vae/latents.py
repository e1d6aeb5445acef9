"""Converts between pixels and the denoiser's latents, which are 0.7 times the VAE's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..clips import LATENT_FRAMES
from ..model.config import Grid, TransformerConfig
from .autoencoder import LATENT_SCALE, PIXELS, VideoVae
from .tiles import decode_in_tiles


def film_grid(height: int, width: int, config: TransformerConfig) -> Grid:
    """The token grid of a clip with frames of this size."""
    side = PIXELS * config.patch
    return Grid(LATENT_FRAMES, height // side, width // side)


def encode(vae: VideoVae, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
    """Frames ``b 3 t H W`` in -1..1 -> scaled latent ``b 16 t' h w``."""
    return vae.encode(pixels, noise) * LATENT_SCALE


def decode(vae: VideoVae, latent: Tensor) -> Iterator[Tensor]:
    """Scaled latent ``1 16 t h w`` -> frames ``n 3 H W`` in 0..1, float32, a chunk at a time."""
    for chunk in vae.decode_chunks(_unscaled(latent)):
        yield _as_frames(chunk)


def decode_whole(vae: VideoVae, latent: Tensor) -> Tensor:
    """Scaled latent ``1 16 t h w`` -> all its frames ``n 3 H W`` in 0..1, float32."""
    return torch.cat(list(decode(vae, latent)))


def decode_tiled(vae: VideoVae, latent: Tensor) -> Tensor:
    """Like `decode_whole`, but in tiles: a fraction of the memory, nearly the same frames, returned on the CPU."""
    return _as_frames(decode_in_tiles(vae, _unscaled(latent)))


def _unscaled(latent: Tensor) -> Tensor:
    """The denoiser's latent -> the VAE's."""
    return latent * (1 / LATENT_SCALE)


def _as_frames(pixels: Tensor) -> Tensor:
    """The VAE's pixels ``1 3 n H W``, about -1..1 -> frames ``n 3 H W`` in 0..1, float32."""
    return ((pixels[0].float() + 1) / 2).clamp(0, 1).transpose(0, 1)
