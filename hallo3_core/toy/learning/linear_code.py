"""A linear code of 8 x 8 pixels by 4 frames: the teacher of the VAE's encoder in early training.

Group norm removes a channel's level, and with it the colours, which are then learnt late or never. A teacher that
knows them takes a second to compute: the principal components of the blocks. A film's first frame, which has its own
CogVideoX latent frame, is coded as four copies, so all latent frames share one code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SIDE, LENGTH = 8, 4
EVENED = 0.7  # 0: channels scaled as their components, 1: all scaled to the same size


@dataclass(frozen=True, eq=False)
class LinearCode:
    """`mean` ``v`` and `basis` ``v 16`` of a block's v = 768 values; `scale` ``16`` gives codes their size."""

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __call__(self, pixels: Tensor) -> Tensor:
        """Frames ``b 3 t H W`` in -1..1, t = 1 + 4 k -> code ``b 16 1+k H/8 W/8``."""
        return (((blocks(pixels) - self.mean) @ self.basis) / self.scale).permute(0, 4, 1, 2, 3).contiguous()

    def decode(self, latent: Tensor) -> Tensor:
        """Decodes to frames, as far as 16 components can represent them."""
        values = (latent.permute(0, 2, 3, 4, 1) * self.scale) @ self.basis.T + self.mean
        x = values.unflatten(-1, (3, LENGTH, SIDE, SIDE)).permute(0, 4, 1, 5, 2, 6, 3, 7)  # b c t f h y w x
        x = x.flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return torch.cat((x[:, :, LENGTH - 1 : LENGTH], x[:, :, LENGTH:]), dim=2)


def blocks(pixels: Tensor) -> Tensor:
    """Frames ``b 3 1+4k H W`` -> blocks ``b 1+k H/8 W/8 768``, the first frame four times."""
    first, rest = pixels[:, :, :1], pixels[:, :, 1:]
    x = torch.cat((first.expand(-1, -1, LENGTH, -1, -1), rest), dim=2)
    x = x.unflatten(4, (-1, SIDE)).unflatten(3, (-1, SIDE)).unflatten(2, (-1, LENGTH))  # b c t f h y w x
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


def fit(pixels: Tensor, weights: Tensor, size: float, components: int = 16) -> LinearCode:
    """Fits the components of clips ``b 3 1+4k H W``, pixels weighted by `weights` ``b 1 1 H W``, for codes of RMS
    `size`."""
    samples = blocks(pixels).flatten(0, 3).float()
    counts = blocks(weights.expand(-1, 3, pixels.shape[2], -1, -1)).float().mean(-1).flatten()
    mean = (samples * counts[:, None]).sum(0) / counts.sum()
    centred = ((samples - mean) * counts[:, None].sqrt()).double()  # for accurate small components
    values, vectors = torch.linalg.eigh((centred.T @ centred / counts.sum()).cpu())
    values, vectors = values[-components:].flip(0), vectors[:, -components:].flip(1)
    deviation = values.clamp(min=float(values[0]) * 1e-4).sqrt()
    scale = deviation**EVENED
    scale = scale * (values / scale**2).mean().sqrt() / size
    return LinearCode(mean, vectors.to(mean), scale.to(mean))
