"""The trunk shared by denoiser and reference network: CogVideoX-5B-I2V's embeddings, positions and blocks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .attention import Attention, scaled_dot_product
from .blocks import Block
from .config import Grid, TransformerConfig
from .modulation import TimeModulation
from .positions import Layout, Rotary, fitted_table, rotary_table


class Trunk(nn.Module):
    """Embeddings, learned positions, modulation of `config.layers` layers, and the first `blocks` of these layers, of
    class `block`."""

    def __init__(
        self,
        config: TransformerConfig,
        blocks: int,
        block: type[Block] = Block,
        *,
        attention: Attention = scaled_dot_product,
        operations=nn,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.config = config
        kw = dict(device=device, dtype=dtype)
        d, p, grid = config.hidden, config.patch, config.grid
        self.patch_embed = operations.Conv2d(2 * config.channels, d, kernel_size=p, stride=p, **kw)
        self.text_embed = operations.Linear(config.text_width, d, **kw)
        self.text_positions = nn.Parameter(torch.empty(config.text_tokens, d, **kw))
        self.video_positions = nn.Parameter(torch.empty(grid.frames, grid.rows, grid.columns, d, **kw))
        self.modulation = TimeModulation(config, operations=operations, **kw)
        self.blocks = nn.ModuleList(block(config, attention, operations=operations, **kw) for _ in range(blocks))

    def layout(
        self,
        grid: Grid,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
        rotary: Rotary | None = None,
    ) -> Layout:
        """Positions of a clip of size `grid`, which may differ from the trained one (`positions.py`).

        device: where the tokens will be. The two tables may be on another device: they belong to no layer, so code that
        moves a network layer by layer, as ComfyUI does when memory is short, does not move them.
        rotary: the grid's rotary table, if it was computed before.
        """
        config, device = self.config, device or self.video_positions.device
        if rotary is None:
            rotary = rotary_table(grid, config.grid, config.head, device)
        return Layout(
            grid=grid,
            text=self.text_positions.to(device, dtype),
            video=fitted_table(self.video_positions.to(device, dtype), grid, config.grid),
            rotary=rotary,
            frame_rotary=rotary.first_frame(grid),
        )

    def embed_text(self, text: Tensor) -> Tensor:
        """``b m text_width -> b m D``, without positions."""
        return self.text_embed(text)

    def embed_video(self, latent: Tensor, layout: Layout) -> Tensor:
        """Noisy and concat channels ``b 32 t h w -> b (t r c) D``, with positions added."""
        patches = self.patch_embed(latent.transpose(1, 2).flatten(0, 1))  # (b t) D r c
        tokens = patches.flatten(2).transpose(1, 2).unflatten(0, (latent.shape[0], -1)).flatten(1, 2)
        return tokens + layout.video


# A network, the grid of a clip, dtype and device -> positions of the clip. `Trunk.layout`, or one made for training.
LayoutOf = Callable[[Trunk, Grid, torch.dtype, torch.device], Layout]
