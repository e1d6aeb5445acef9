"""What a latent looks like without the VAE: one linear map from its channels to RGB, fitted on the portrait itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def fit_colours(latent: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The map of least squares from a picture's latent ``c h w`` to the picture ``3 H W``: ``3 c`` and a bias ``3``.

    The picture is averaged to the latent's size, each latent pixel is a sample; float32 on the CPU. A portrait has
    thousands of them and 17 unknowns a colour, and the clip shows the same person in the same light.
    """
    channels = latent.shape[0]
    seen = F.adaptive_avg_pool2d(pixels.float().cpu(), latent.shape[1:]).flatten(1)
    told = latent.float().cpu().flatten(1)
    told = torch.cat((told, told.new_ones(1, told.shape[1])))
    found = torch.linalg.lstsq(told.T.double(), seen.T.double(), driver="gelsd").solution  # flat pictures lack rank
    return found[:channels].T.float(), found[channels].float()
