"""Makes a film as a chain of clips: each continues from the end of the previous one, and finished clips are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import NamedTuple, Protocol

from torch import Tensor


class Clip(NamedTuple):
    """A finished clip: its new frames ``n h w 3``, uint8, as they go into the film, and its motion frames ``2 3 H W``,
    float32 in 0..1, from which the next clip starts."""

    frames: Tensor
    motion: Tensor


MakeClip = Callable[[int, Tensor | None], Clip]  # clip number, and the motion frames of the previous clip


class ClipStorage(Protocol):
    """Storage for finished clips."""

    def load(self, number: int) -> Clip | None:
        """The stored clip, or None if it is missing or does not follow from the previous clip."""

    def save(self, number: int, clip: Clip) -> None:
        """Stores a clip that was made from the previous one."""


def clip_chain(
    clips: int, make: MakeClip, store: ClipStorage | None = None, on_kept: Callable[[int], None] | None = None
) -> Iterator[Tensor]:
    """Yields the new frames of each clip, ``n h w 3``, uint8. Only the motion frames stay in memory between clips.

    Clips in the store are not made again; `on_kept` is called with their number. A new clip is stored before it is
    yielded.
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
    """Opens `maker` only when the first clip has to be made, since all clips may be in the store already."""
    with ExitStack() as opened:
        made: list[MakeClip] = []

        def make(number: int, motion: Tensor | None) -> Clip:
            if not made:
                made.append(opened.enter_context(maker))
            return made[0](number, motion)

        yield make
