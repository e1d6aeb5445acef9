"""Projectors: audio and face to the few tokens that cross-attention reads. Run once per clip and once per portrait."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import AudioProjectorConfig, FaceProjectorConfig


def pair_convolution(conv: type[nn.Conv1d]) -> type[nn.Conv1d]:
    """A convolution of kernel size and stride 2, computed as a matmul of frame pairs with the weight as it is stored.

    At the released size the weight is 2.4 GB, and a library's convolution may copy it to another memory format first.
    The weight keeps its name and shape, so a host's own layer class still casts and patches it.
    """

    class PairConv1d(conv):
        def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            size = weight.shape[2]  # 2; or 1 in a LoRA's second matrix, for which PEFT uses the same class
            pairs = x.unflatten(2, (-1, size)).transpose(1, 2).flatten(2)  # b f/2 (c 2)
            return F.linear(pairs, weight.flatten(1), bias).transpose(1, 2)

    return PairConv1d


class AudioProjector(nn.Module):
    """wav2vec windows to the audio tokens of each latent frame.

    forward: ``b f w l d -> b t n c`` with f = 49 video frames, w = 5, l = 12 layers, d = 768, t = 13, n = 32,
    c = 768. The tokens of silence (zeros, the null) are not zero.
    """

    def __init__(self, config: AudioProjectorConfig, *, operations=nn, device=None, dtype=None):
        super().__init__()
        self.tokens = config.tokens
        kw = dict(device=device, dtype=dtype)
        out = config.tokens * config.width
        self.proj1 = operations.Linear(config.inputs, config.inner, **kw)
        self.proj2 = operations.Linear(config.inner, config.inner, **kw)
        self.proj3 = operations.Linear(config.inner, out, **kw)
        self.halve = pair_convolution(operations.Conv1d)(out, out, kernel_size=2, stride=2, **kw)
        self.norm = operations.LayerNorm(config.width, eps=1e-5, **kw)

    def forward(self, windows: Tensor) -> Tensor:
        x = F.relu(self.proj1(windows.flatten(2)))
        x = self.proj3(F.relu(self.proj2(x))).transpose(1, 2)
        x = self._halve_time(self._halve_time(x))  # the same weights both times
        return self.norm(x.transpose(1, 2).unflatten(-1, (self.tokens, -1)))

    def _halve_time(self, x: Tensor) -> Tensor:
        """``b c f -> b c ceil(f / 2)``. As in the VAE, the first frame of an odd count is kept separate."""
        if x.shape[-1] % 2 == 0:
            return self.halve(x)
        return torch.cat((x[..., :1], self.halve(x[..., 1:])), dim=-1)


class FaceProjector(nn.Module):
    """ArcFace embedding to face tokens, one set for all frames of a film.

    forward: ``b d -> b n c`` with d = 512, n = 4 tokens, c = 1024.
    """

    def __init__(self, config: FaceProjectorConfig, *, operations=nn, device=None, dtype=None):
        super().__init__()
        self.tokens = config.tokens
        kw = dict(device=device, dtype=dtype)
        self.proj = operations.Linear(config.embedding, config.tokens * config.width, **kw)
        self.norm = operations.LayerNorm(config.width, eps=1e-5, **kw)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.norm(self.proj(embedding).unflatten(-1, (self.tokens, -1)))
