"""Decoding a latent in tiles: a fraction of the memory, and nearly the same frames.

Each tile is decoded on its own over all frames and blended with its neighbours where they overlap. Group norms see a
tile instead of the whole frame, so colours may differ slightly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .autoencoder import PIXELS, VideoVae

OVERLAP = 8  # latent pixels that neighbours share


def decode_in_tiles(vae: VideoVae, latent: Tensor) -> Tensor:
    """Unscaled latent ``b c t h w`` -> its frames ``b 3 n H W``, about -1..1, float32 on the CPU, from 2 x 2 tiles."""
    batch, _, _, height, width = latent.shape
    total = weights = None
    for top, bottom in halves(height):
        for left, right in halves(width):
            tile = [chunk.float().cpu() for chunk in vae.decode_chunks(latent[..., top:bottom, left:right])]
            tile = torch.cat(tile, dim=2)
            if total is None:
                total = tile.new_zeros(batch, 3, tile.shape[2], height * PIXELS, width * PIXELS)
                weights = tile.new_zeros(height * PIXELS, width * PIXELS)
            fade = torch.outer(ramps(top, bottom, height), ramps(left, right, width))
            place = (slice(top * PIXELS, bottom * PIXELS), slice(left * PIXELS, right * PIXELS))
            total[..., *place] += tile * fade
            weights[place] += fade
    return total / weights


def halves(side: int) -> list[tuple[int, int]]:
    """Splits a side into two parts that overlap by `OVERLAP`; a short side stays whole."""
    if side <= 2 * OVERLAP:
        return [(0, side)]
    middle = side // 2
    return [(0, middle + OVERLAP // 2), (middle - OVERLAP // 2, side)]


def ramps(start: int, stop: int, side: int) -> Tensor:
    """Blending weights of a tile's pixels along a side: rising over the overlap with the previous tile, falling over
    the overlap with the next."""
    weight = torch.ones((stop - start) * PIXELS)
    strip = torch.linspace(0, 1, OVERLAP * PIXELS + 2)[1:-1]
    if start > 0:
        weight[: len(strip)] = strip
    if stop < side:
        weight[-len(strip) :] = strip.flip(0)
    return weight
