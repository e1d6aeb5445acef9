"""A preview of a latent without the VAE: a linear map from its channels to RGB, fitted on the portrait."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def fit_colours(latent: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The least-squares map from a picture's latent ``c h w`` to the picture ``3 H W``: a matrix ``3 c`` and a bias
    ``3``.

    The picture is averaged to the latent's size, and each latent pixel is a sample. Returns float32 on the CPU. A
    portrait has thousands of samples for 17 unknowns per colour, and the clip shows the same person in the same light.
    """
    channels = latent.shape[0]
    seen = F.adaptive_avg_pool2d(pixels.float().cpu(), latent.shape[1:]).flatten(1)
    samples = latent.float().cpu().flatten(1)
    samples = torch.cat((samples, samples.new_ones(1, samples.shape[1])))
    # gelsd, because flat pictures are rank-deficient
    found = torch.linalg.lstsq(samples.T.double(), seen.T.double(), driver="gelsd").solution
    return found[:channels].T.float(), found[channels].float()
