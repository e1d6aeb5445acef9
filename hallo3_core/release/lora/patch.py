"""One change that a LoRA makes to one weight: strength x alpha / rank x up @ down, or DoRA's."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Target(NamedTuple):
    """Maps `rows` rows of one of our tensors, from `start`, to rows of theirs from `their_start`."""

    name: str
    start: int
    rows: int
    their_start: int = 0


class Patch(NamedTuple):
    """Adds strength x scale x up @ down to one of our tensors at `target`; up ``rows r``, down ``r columns``.

    magnitude: DoRA's, ``rows 1`` or ``1 columns``; bias: added to the layer's bias, ``rows``.
    """

    target: Target
    up: Tensor
    down: Tensor
    scale: float
    magnitude: Tensor | None = None
    bias: Tensor | None = None


def change_of(rows: Tensor, patch: Patch) -> Tensor:
    """The change that a patch makes to rows ``o i`` of a weight at strength 1, in float32.

    With magnitudes it is DoRA (arXiv:2402.09353): the rows or columns of the sum are rescaled to these norms.
    """
    change = patch.scale * (patch.up.to(rows.device, torch.float32) @ patch.down.to(rows.device, torch.float32))
    if patch.magnitude is None:
        return change
    whole, magnitude = rows + change, patch.magnitude.to(rows.device, torch.float32)
    along = 0 if by_column(magnitude, len(rows)) else 1
    return whole * (magnitude / whole.norm(dim=along, keepdim=True).clamp_min(1e-12)) - rows


def by_column(magnitude: Tensor, rows: int) -> bool:
    """Whether magnitudes are per column, ``1 i``, as LyCORIS may store them, rather than per row, ``o`` or ``o 1``."""
    return magnitude.ndim == 2 and len(magnitude) == 1 and rows > 1
