"""The identity reference network: what a second CogVideoX transformer sees in the masked portrait. Once an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import Attention, scaled_dot_product
from .config import Grid, TransformerConfig
from .modulation import LayerModulation, modulate
from .trunk import Trunk


class ReferenceNet(Trunk):
    """forward: portrait latent ``b 16 h w`` (scaled) -> a feature tensor ``b n D`` for each layer of the denoiser.

    A layer's features are its video tokens after the first norm and its modulation, so the last layer is nothing but
    that norm. The portrait is both the noisy and the concat half, the timestep is 0 and the text is null.
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
        super().__init__(config, config.layers - 1, attention=attention, operations=operations, **kw)
        self.last_norm = operations.LayerNorm(config.hidden, eps=1e-5, **kw)

    def forward(self, latent: Tensor, text: Tensor | None = None, timestep: Tensor | None = None) -> list[Tensor]:
        """`text` ``b m text_width`` and `timestep` ``b`` are what training gave it; sampling leaves them out."""
        config, dtype = self.config, latent.dtype
        batch, _, h, w = latent.shape
        layout = self.layout(Grid(1, h // config.patch, w // config.patch), dtype, latent.device)
        if text is None:
            text = latent.new_zeros(batch, config.text_tokens, config.text_width)
        if timestep is None:
            timestep = latent.new_zeros(1)
        rows = self.modulation(self.modulation.embed(timestep, dtype))
        modulation = [LayerModulation.of(rows[:, i]) for i in range(config.layers)]
        frame = latent[:, :, None]
        video = self.embed_video(torch.cat((frame, frame), dim=1), layout)
        stream = self.embed_text(text) + layout.text
        bank = []
        for i, block in enumerate(self.blocks):
            bank.append(block.modulated_video(video, modulation[i]))
            last = i + 1 == len(self.blocks)
            video, stream = block(video, stream, modulation[i], layout, text_ends=last)
        shift, scale, _ = modulation[-1].video_attention
        bank.append(modulate(self.last_norm(video), shift, scale))
        return bank
