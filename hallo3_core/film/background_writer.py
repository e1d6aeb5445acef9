"""Saving a clip beside the sampling of the next: a film writer's work in a thread of its own, one clip at a time."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from torch import Tensor


class Writer(Protocol):
    """What takes the frames of a film in order, ``t h w 3``, uint8."""

    def write(self, frames: Tensor) -> None: ...


class BackgroundWriter:
    """Writes to `writer` in a thread; what is written, and in which order, is the same.

        with FilmWriter(...) as film, BackgroundWriter(film) as background:
            background.write(frames)

    `write` returns at once but waits for the clip before, so at most one clip is on its way. What that one's writing
    raised is raised by the next `write` or at the end of the block, which every clip has reached by then. A block left
    by an exception waits for the clip that is being written, whose own failure no longer matters, and starts no other.
    """

    def __init__(self, writer: Writer):
        self._writer = writer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="film-writer")
        self._pending: Future | None = None

    def write(self, frames: Tensor) -> None:
        """Hand over frames, which must not change afterwards."""
        self._wait()
        self._pending = self._thread.submit(self._writer.write, frames)

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None:
                self._wait()
            else:
                with suppress(Exception):
                    self._wait()
        finally:
            self._thread.shutdown()

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
