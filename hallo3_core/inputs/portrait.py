"""The portrait, framed as the film, and what the reference network leaves of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.denoiser import ReferenceBank
from ..model.reference_net import ReferenceNet
from ..vae.autoencoder import VideoVae
from ..vae.latents import encode
from .image import Framing, frame_pixels


@dataclass(frozen=True)
class Portrait:
    """What a portrait gives: its framed pixels ``1 3 H W`` in -1..1, the reference bank (None for a denoiser without
    reference network), and that of the null (a zero latent), which only a reference scale other than 1 needs."""

    pixels: Tensor
    framing: Framing
    bank: ReferenceBank | None
    null_bank: ReferenceBank | None = None


def prepare_portrait(
    image: Tensor,
    mask: Tensor,
    framing: Framing,
    vae: VideoVae,
    reference_net: ReferenceNet,
    *,
    with_null: bool = False,
    noise: Tensor | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Portrait:
    """Frame the image ``1 3 h w`` (0..1) and run the reference network on what the mask ``h w`` leaves of it.

    `noise` replays a recorded draw of the VAE's posterior; without it the mean is taken.
    The geometry is done in the image's own dtype, float32; only then do pixels go to `device` and `dtype`.
    """
    place = dict(device=device, dtype=dtype)
    latent = encode_masked(image, mask, framing, vae, noise, **place)
    return Portrait(
        pixels=framed(image, framing).to(**place),
        framing=framing,
        bank=reference_net(latent),
        null_bank=reference_net(torch.zeros_like(latent)) if with_null else None,
    )


def encode_masked(
    image: Tensor,
    mask: Tensor,
    framing: Framing,
    vae: VideoVae,
    noise: Tensor | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The masked portrait's latent ``1 16 h w``: masked at its own size, then framed."""
    pixels = framed(image * mask, framing).to(device=device, dtype=dtype)
    return encode(vae, pixels[:, :, None], noise)[:, :, 0]


def framed(image: Tensor, framing: Framing) -> Tensor:
    """``1 3 h w`` in 0..1 -> ``1 3 H W`` in -1..1"""
    return frame_pixels(image, framing) * 2 - 1
