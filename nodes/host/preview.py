"""Latent previews: the host's, with colours fitted to the portrait and the loaded VAE."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from torch import Tensor

from ...hallo3_core.vae.latents import encode
from ...hallo3_core.vae.preview import fit_colours
from .model import LatentFormat
from .vae import CoreVae


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
