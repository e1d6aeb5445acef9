"""The latent's preview: the host's own, with colours fitted on the portrait and the VAE at hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from torch import Tensor

from ...hallo3_core.vae.latents import encode
from ...hallo3_core.vae.preview import fit_colours
from .model import LatentFormat
from .vae import CoreVae


class PortraitColours(LatentFormat):
    """A latent format that knows its colours. They cost the VAE a picture, so they are fitted when a previewer asks for
    them: not where the user has previews off."""

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
        """A row for each channel: what it adds to red, green and blue, which are -1..1."""
        return self._fitted[0].T.tolist()

    @property
    def latent_rgb_factors_bias(self) -> list[float]:
        return self._fitted[1].tolist()
