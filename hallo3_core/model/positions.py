"""Token positions: the rotary table and the learned table, for the trained grid or for another one fitted into it.

A grid of another size is fitted into the trained one like a picture into a frame: as large as possible, centred, with
its aspect ratio kept. So a square film has the positions that a padded square portrait had in training, and the trained
grid keeps its own integer positions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .config import Grid

PIECES = 8  # chunks of half-precision queries or keys, converted to float32 one after another


class Rotary(NamedTuple):
    """Cosines and sines of the rotation angles of all video tokens, in (frame, row, column) order."""

    turns: Tensor  # n d/2 2

    @property
    def cos(self) -> Tensor:
        return self.turns[..., 0]

    @property
    def sin(self) -> Tensor:
        return self.turns[..., 1]

    def first_frame(self, grid: Grid) -> Rotary:
        """The rows of the first frame, which face and audio queries of every frame use."""
        return Rotary(self.turns[: grid.tokens_per_frame])


class Layout(NamedTuple):
    """The positions of a grid, computed before sampling: tables to add and rotary tables."""

    grid: Grid
    text: Tensor  # n D
    video: Tensor  # (t r c) D
    rotary: Rotary  # self-attention
    frame_rotary: Rotary  # face and audio queries


def fitted_positions(grid: Grid, trained: Grid) -> tuple[Tensor, Tensor]:
    """Row and column positions of the token centres of `grid`, in units of the trained grid, float64."""
    scale = min(trained.rows / grid.rows, trained.columns / grid.columns)

    def along(count: int, trained_count: int) -> Tensor:
        start = (trained_count - count * scale) / 2
        return start + (torch.arange(count, dtype=torch.float64) + 0.5) * scale - 0.5

    return along(grid.rows, trained.rows), along(grid.columns, trained.columns)


def rotary_table(grid: Grid, trained: Grid, head: int, device: torch.device | str = "cpu") -> Rotary:
    """Angles for heads of size `head`: a quarter of the entries for time, three eighths each for row and column.

    A part of size p has frequencies ``10000 ** (-2 i / p)``. Rotation acts on adjacent pairs of entries.
    """
    rows, columns = fitted_positions(grid, trained)
    frames = torch.arange(grid.frames)

    def angles(positions: Tensor, part: int) -> Tensor:  # in float32, as the released table was made
        frequencies = 10000.0 ** (-torch.arange(0, part, 2, dtype=torch.float32) / part)
        return positions.float()[:, None] * frequencies

    time, row, column = (
        angles(p, part) for p, part in ((frames, head // 4), (rows, head * 3 // 8), (columns, head * 3 // 8))
    )
    t, r, c = grid.frames, grid.rows, grid.columns
    table = torch.cat(
        (
            time[:, None, None].expand(t, r, c, -1),
            row[None, :, None].expand(t, r, c, -1),
            column[None, None].expand(t, r, c, -1),
        ),
        dim=-1,
    ).flatten(0, 2)
    return Rotary(torch.stack((table.cos(), table.sin()), dim=-1).to(device))


def rotate_(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotates adjacent pairs of entries of ``... n d`` in place: (a, b) -> (a cos - b sin, b cos + a sin).

    Computed at least in float32, as complex products, which take one pass over memory. Half precision is converted to
    float32 some heads at a time. torch's compiler does not support complex numbers, but fuses the formula into one pass
    by itself.
    """
    if torch.compiler.is_compiling():
        return x.copy_(rotated(x, rotary))
    turns = torch.view_as_complex(rotary.turns)
    if x.dtype.itemsize >= 4:
        torch.view_as_complex(x.unflatten(-1, (-1, 2))).mul_(turns)
        return x
    for part in x.view(-1, *x.shape[-2:]).chunk(PIECES):
        wide = torch.view_as_complex(part.float().unflatten(-1, (-1, 2)))
        part.copy_(torch.view_as_real(wide.mul_(turns)).flatten(-2))
    return x


def rotated(x: Tensor, rotary: Rotary) -> Tensor:
    """The result of `rotate_` by its formula, as a new tensor of the same dtype."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotary.turns.unbind(-1)  # not its properties, which torch 2.7's compiler does not trace
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2).to(x.dtype)


def fitted_table(table: Tensor, grid: Grid, trained: Grid) -> Tensor:
    """The learned table ``t r c D`` at the positions of `grid`: ``(t r c) D``. Unchanged on the trained grid,
    bilinearly interpolated on others."""
    if grid.frames > trained.frames:
        raise ValueError(f"{grid.frames} latent frames, but the learned positions end at {trained.frames}")
    table = table[: grid.frames]
    if (grid.rows, grid.columns) == (trained.rows, trained.columns):
        return table.flatten(0, 2)
    rows, columns = fitted_positions(grid, trained)
    return _between(_between(table, rows, 1), columns, 2).flatten(0, 2)


def _between(table: Tensor, positions: Tensor, dim: int) -> Tensor:
    """Linear interpolation of `table` along `dim` at fractional positions, clamped at the edges."""
    last = table.shape[dim] - 1
    positions = positions.clamp(0, last)
    low = positions.floor().long()
    share = (positions - low).to(table.dtype).to(table.device)
    shape = [1] * table.ndim
    shape[dim] = -1
    low, high = low.to(table.device), (low + 1).clamp(max=last).to(table.device)
    return torch.lerp(table.index_select(dim, low), table.index_select(dim, high), share.view(shape))
