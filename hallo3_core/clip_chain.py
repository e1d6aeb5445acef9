"""A film as a chain of clips: each is made from the end of the one before, and what is finished is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor


class Clip(NamedTuple):
    """What a clip leaves: its new frames ``n h w 3``, uint8, as they go into the film, and its last frames
    ``2 3 H W``, float32 in 0..1, from which the next clip is made."""

    frames: Tensor
    motion: Tensor


MakeClip = Callable[[int, Tensor | None], Clip]  # number, and the motion frames of the clip before


def clip_chain(clips: int, make: MakeClip) -> Iterator[Tensor]:
    """The new frames of clip after clip, ``n h w 3``, uint8; nothing but the motion frames stays in memory."""
    motion = None
    for number in range(clips):
        frames, motion = make(number, motion)
        yield frames
