"""Fades out the jump where two clips meet.

A clip first draws the last frames of the clip before again, and never quite the same: edges are sharper, a wave is
elsewhere. Since both show the same moment, their difference is the jump, and it is added to the next frames, less and
less. The original cuts hard, so this is off by default.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError

LONGEST_FADE = 24  # frames: half a clip


def check_fade(frames: int) -> None:
    """Raises InputError unless `frames` is a whole number of 0 to 24."""
    if not (isinstance(frames, int) and 0 <= frames <= LONGEST_FADE):
        raise InputError(f"seam fade is {frames} frames: choose a whole number of 0 (off) to {LONGEST_FADE}.")


def fade_seam(new: Tensor, before: Tensor, again: Tensor, frames: int) -> Tensor:
    """The new frames of a clip ``n ...`` in 0..1, the first `frames` of which fade in from the clip before.

    before: its last frame ``...``; again: the same moment as this clip draws it. The result has the device and dtype of
    `new`.

    Raises:
        InputError: frames outside 0..24.
    """
    check_fade(frames)
    if frames == 0:
        return new
    count = min(frames, len(new))
    left = 1 - torch.arange(1, count + 1, device=new.device) / (frames + 1)
    jump = left.to(new).view(-1, *[1] * again.ndim) * (before.to(new) - again.to(new))
    return torch.cat(((new[:count] + jump).clamp(0, 1), new[count:]))
