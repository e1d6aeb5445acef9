"""A film as a chain of clips: each is made from the end of the one before, and what is finished is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import NamedTuple, Protocol

from torch import Tensor


class Clip(NamedTuple):
    """What a clip leaves: its new frames ``n h w 3``, uint8, as they go into the film, and its last frames
    ``2 3 H W``, float32 in 0..1, from which the next clip is made."""

    frames: Tensor
    motion: Tensor


MakeClip = Callable[[int, Tensor | None], Clip]  # number, and the motion frames of the clip before


class Store(Protocol):
    """Where finished clips are kept."""

    def load(self, number: int) -> Clip | None:
        """A clip that is there and follows from the one before."""

    def save(self, number: int, clip: Clip) -> None:
        """Keep a clip, made from the one before."""


def clip_chain(
    clips: int, make: MakeClip, store: Store | None = None, on_kept: Callable[[int], None] | None = None
) -> Iterator[Tensor]:
    """The new frames of clip after clip, ``n h w 3``, uint8; nothing but the motion frames stays in memory.

    What the store has is not made again, and `on_kept` is told its number; what is made is kept before it is given out.
    """
    motion = None
    for number in range(clips):
        clip = None if store is None else store.load(number)
        if clip is None:
            clip = make(number, motion)
            if store is not None:
                store.save(number, clip)
        elif on_kept is not None:
            on_kept(number)
        frames, motion = clip
        del clip
        yield frames
        del frames


@contextmanager
def lazily(maker: AbstractContextManager[MakeClip]) -> Iterator[MakeClip]:
    """A maker of clips that is not opened before the first clip is asked for: perhaps all are there already."""
    with ExitStack() as opened:
        made: list[MakeClip] = []

        def make(number: int, motion: Tensor | None) -> Clip:
            if not made:
                made.append(opened.enter_context(maker))
            return made[0](number, motion)

        yield make
