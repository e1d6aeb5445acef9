"""The identity reference network: a second CogVideoX transformer that reads the masked portrait, once per image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import Attention, scaled_dot_product
from .blocks import Block
from .config import Grid, TransformerConfig
from .modulation import LayerModulation, modulate
from .positions import Layout
from .trunk import LayoutOf, Trunk


class ReferenceBlock(Block):
    """A block that also returns its features ``b n D``: video, text -> features, video, text."""

    def forward(
        self, video: Tensor, text: Tensor, modulation: LayerModulation, layout: Layout, *, text_ends: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        features = self.modulated_video(video, modulation)
        return features, *super().forward(video, text, modulation, layout, text_ends=text_ends)


class ReferenceNet(Trunk):
    """forward: portrait latent ``b 16 h w`` (scaled) -> features ``b n D`` for each layer of the denoiser.

    A layer's features are its video tokens after the first norm and its modulation, so of the last layer only that norm
    is needed. The portrait is both the noisy and the concat half of the input, the timestep is 0 and the text is null.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        attention: Attention = scaled_dot_product,
        operations=nn,
        device=None,
        dtype=None,
    ):
        kw = dict(device=device, dtype=dtype)
        super().__init__(config, config.layers - 1, ReferenceBlock, attention=attention, operations=operations, **kw)
        self.last_norm = operations.LayerNorm(config.hidden, eps=1e-5, **kw)

    def forward(
        self,
        latent: Tensor,
        text: Tensor | None = None,
        timestep: Tensor | None = None,
        layout: LayoutOf = Trunk.layout,
    ) -> list[Tensor]:
        """Training passes `text` ``b m text_width`` and `layout`, which gives the portrait's positions; sampling leaves
        them out."""
        config, dtype = self.config, latent.dtype
        batch, _, h, w = latent.shape
        positions = layout(self, Grid(1, h // config.patch, w // config.patch), dtype, latent.device)
        if text is None:
            text = latent.new_zeros(batch, config.text_tokens, config.text_width)
        if timestep is None:
            timestep = latent.new_zeros(1)
        rows = self.modulation(self.modulation.embed(timestep, dtype))
        modulation = [LayerModulation.of(rows[:, i]) for i in range(config.layers)]
        frame = latent[:, :, None]
        video = self.embed_video(torch.cat((frame, frame), dim=1), positions)
        stream = self.embed_text(text) + positions.text
        bank = []
        for i, block in enumerate(self.blocks):
            last = i + 1 == len(self.blocks)
            features, video, stream = block(video, stream, modulation[i], positions, text_ends=last)
            bank.append(features)
        shift, scale, _ = modulation[-1].video_attention
        bank.append(modulate(self.last_norm(video), shift, scale))
        return bank
