"""Latent previews: the host's, with colours fitted to the portrait and the loaded VAE; or by the tiny decoder for
CogVideoX's latents, where the user has put it into `vae_approx` and chosen TAESD previews."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from typing import Any

import comfy.cli_args
import comfy.sd
import comfy.utils
import folder_paths
import latent_preview
import torch
from torch import Tensor

from ...hallo3_core.vae.latents import encode
from ...hallo3_core.vae.preview import fit_colours
from .model import LatentFormat
from .vae import CoreVae

TINY_DECODER = "taecvx"  # how the file's name begins: taecvx.pth, taecvx.safetensors

log = logging.getLogger(__name__)


def previewer(device: torch.device, vae: CoreVae, portrait: Tensor) -> Any:
    """Makes what turns a latent into a picture as the user chose it; None with previews off.

    portrait: ``1 3 H W`` in -1..1.
    """
    return _tiny_previewer() or latent_preview.get_previewer(device, PortraitColours(vae, portrait))


def _tiny_previewer() -> TinyPreviewer | None:
    """The tiny decoder's, if it is chosen and there."""
    method = comfy.cli_args.args.preview_method
    if method != comfy.cli_args.LatentPreviewMethod.TAESD:
        return None
    name = next((name for name in folder_paths.get_filename_list("vae_approx") if name.startswith(TINY_DECODER)), None)
    if name is None:
        log.warning("TAESD previews need taecvx.pth in models/vae_approx: showing colours instead")
        return None
    path = folder_paths.get_full_path("vae_approx", name)
    try:
        return TinyPreviewer(comfy.utils.load_torch_file(path, safe_load=True))
    except Exception as error:  # of a file that is damaged or another's
        log.warning("%s: no tiny decoder for previews (%s): showing colours instead", name, error)
        return None


class TinyPreviewer:
    """Decodes a latent's first frame with a network of the TAEHV kind, in the user's size."""

    def __init__(self, weights: dict[str, Tensor]):
        """
        Raises:
            ValueError: weights of another kind of decoder.
        """
        self._vae = comfy.sd.VAE(sd=weights)
        network = getattr(self._vae, "first_stage_model", None)
        if getattr(network, "latent_channels", None) != LatentFormat.latent_channels or not hasattr(network, "decoder"):
            raise ValueError("it does not decode video latents of 16 channels")
        network.process_in = lambda latent: latent  # the host takes a file in fp16 for HunyuanVideo's, which is scaled
        network.show_progress_bar = False

    def decode_latent_to_preview_image(self, kind: str, latent: Tensor) -> tuple[str, Any, int]:
        """``b 16 t h w``, scaled as the denoiser's -> the host's (format, picture, largest side)."""
        from PIL import Image

        frame = self._vae.decode(latent[:1, :, :1]).flatten(0, -4)[0]
        pixels = frame.float().clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
        return kind, Image.fromarray(pixels.numpy()), latent_preview.MAX_PREVIEW_RESOLUTION


class PortraitColours(LatentFormat):
    """A latent format with fitted preview colours. Fitting encodes one picture, so it happens only when a previewer
    asks, never with previews off."""

    def __init__(self, vae: CoreVae, portrait: Tensor):
        """portrait: ``1 3 H W`` in -1..1."""
        super().__init__()
        self._encode: Callable[[], Tensor] = lambda: encode(vae, portrait[:, :, None])[0, :, 0]
        self._portrait = portrait[0]

    @cached_property
    def _fitted(self) -> tuple[Tensor, Tensor]:
        return fit_colours(self._encode(), self._portrait)

    @property
    def latent_rgb_factors(self) -> list[list[float]]:
        """One row per latent channel: its weights for red, green and blue in -1..1."""
        return self._fitted[0].T.tolist()

    @property
    def latent_rgb_factors_bias(self) -> list[float]:
        return self._fitted[1].tolist()
