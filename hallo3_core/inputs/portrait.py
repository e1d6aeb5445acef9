"""Prepares the portrait: its framed pixels and its reference bank."""

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
    """A prepared portrait: its framed pixels ``1 3 H W`` in -1..1, its reference bank (None for a denoiser without a
    reference network), and the null's bank (of a zero latent), which is only needed for a reference scale other than 1.
    """

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
    """Frames the image ``1 3 h w`` (0..1) and runs the reference network on it, masked by ``h w``.

    `noise` replays a recorded sample of the VAE's posterior; without it, the mean is used.
    Framing runs in the image's own dtype, float32. Pixels are converted to `device` and `dtype` afterwards.
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
    """Encodes the masked portrait to a latent ``1 16 h w``. The mask applies at the image's own size, before
    framing."""
    pixels = framed(image * mask, framing).to(device=device, dtype=dtype)
    return encode(vae, pixels[:, :, None], noise)[:, :, 0]


def framed(image: Tensor, framing: Framing) -> Tensor:
    """Frames an image: ``1 3 h w`` in 0..1 -> ``1 3 H W`` in -1..1"""
    return frame_pixels(image, framing) * 2 - 1
