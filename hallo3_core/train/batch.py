"""The input of a training step: the precomputed part of its samples, on the networks' device."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from torch import Tensor

from ..vae.autoencoder import VideoVae


@dataclass(frozen=True)
class Batch:
    """Stacked samples. Pixels are in -1..1; moments are the VAE's mean and log-variance, concatenated.

    clip: moments of 49 frames, encoded in one call, ``b 32 13 h w``; motion: the clip's first frames, as many as the
    conditioning uses, ``b 3 2 H W``; portrait: a frame of the same film, ``b 3 H W``; masked: moments of the masked
    portrait, ``b 32 1 h w``; text ``b m w``; face ``b 512``; audio: windows of the clip's frames, ``b 49 5 l d``;
    weight: of each latent cell in the loss, ``b h w``.
    """

    clip: Tensor
    motion: Tensor
    portrait: Tensor
    masked: Tensor
    text: Tensor
    face: Tensor
    audio: Tensor | None = None
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.clip)

    def part(self, part: slice) -> Batch:
        """A slice of the samples."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: v if v is None else v[part] for name, v in values.items()})


def frame_moments(vae: VideoVae, pixels: Tensor) -> Tensor:
    """Moments of single frames: ``b 3 H W`` -> ``b 32 1 h w``."""
    return vae.unchecked_moments(pixels[:, :, None])
