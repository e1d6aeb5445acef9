"""Cuts a window out of the toy's latents, whose tokens keep their positions in the picture."""

from __future__ import annotations

import torch
from torch import Tensor

from ..model.config import Grid, TransformerConfig
from ..model.positions import Layout, Rotary, rotary_table
from ..model.trunk import Trunk
from .draw import Drawn

Size = tuple[int, int]  # rows and columns, in tokens
Place = tuple[int, int]  # a window's first row and column, in tokens


def place_of(weight: Tensor, size: Size) -> Place:
    """The window around the heavy cells of a weight ``h w``, as far as the picture allows."""
    centre = (weight > weight.min()).nonzero().double().mean(0) + 0.5  # cells
    corner = (centre / 2 - torch.tensor(size) / 2).round().long().tolist()
    row, column = (
        min(max(at, 0), side // 2 - length) for at, side, length in zip(corner, weight.shape, size, strict=True)
    )
    return row, column


class LatentWindow:
    """Cuts latents at the place that was last chosen, and gives its tokens' positions in the picture."""

    def __init__(self, config: TransformerConfig, whole: Grid, device: torch.device | str):
        self._place, self._size = (0, 0), (whole.rows, whole.columns)
        turns = rotary_table(whole, whole, config.head, device).turns
        self._turns = turns.unflatten(0, (whole.frames, whole.rows, whole.columns))

    def at(self, place: Place, size: Size) -> None:
        """Chooses a place."""
        self._place, self._size = place, size

    def cut(self, drawn: Drawn) -> Drawn:
        """The window's latents, and their weights, scaled to a mean of 1."""
        part = (..., *(slice(2 * at, 2 * (at + length)) for at, length in zip(self._place, self._size, strict=True)))
        weight = drawn.weight[part]
        latents = {name: getattr(drawn, name)[part] for name in ("clip", "concat", "reference", "noise")}
        return drawn._replace(**latents, weight=weight / weight.mean((1, 2), keepdim=True))

    def layout(self, network: Trunk, grid: Grid, dtype: torch.dtype, device: torch.device) -> Layout:
        """Positions of the window's tokens; `grid` is the window's size."""
        row, column = self._place
        part = (slice(grid.frames), slice(row, row + grid.rows), slice(column, column + grid.columns))
        rotary = Rotary(self._turns[part].flatten(0, 2))
        video = network.video_positions[part].flatten(0, 2)
        return Layout(grid, network.text_positions, video, rotary, rotary.first_frame(grid))
