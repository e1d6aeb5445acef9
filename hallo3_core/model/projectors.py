"""Projectors: sound and face to the few tokens that cross-attention reads. Run once a clip and once a portrait."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import AudioProjectorConfig, FaceProjectorConfig


def pair_convolution(conv: type[nn.Conv1d]) -> type[nn.Conv1d]:
    """A convolution with kernel size and stride 2 that multiplies pairs of frames with its weight as it is stored: at
    the released size that is 2.4 GB, which a library's convolution may copy into another order first.

    The weight's name and shape stay, and a host's own layer casts and patches it as ever.
    """

    class PairConv1d(conv):
        def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            size = weight.shape[2]  # 2; 1 in the second half of a LoRA's pair, which PEFT makes of the same class
            pairs = x.unflatten(2, (-1, size)).transpose(1, 2).flatten(2)  # b f/2 (c 2)
            return F.linear(pairs, weight.flatten(1), bias).transpose(1, 2)

    return PairConv1d


class AudioProjector(nn.Module):
    """wav2vec windows to audio tokens of each latent frame.

    forward: ``b f w l d -> b t n c`` with f = 49 picture frames, w = 5, l = 12 layers, d = 768, t = 13, n = 32,
    c = 768. Silence (zeros, the null) gives tokens that are not zero.
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
        """``b c f -> b c ceil(f / 2)``: as the VAE does, the first of an odd count stays alone."""
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
