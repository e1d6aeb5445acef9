"""Writes each clip in a background thread while the next one is sampled."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from torch import Tensor


class Writer(Protocol):
    """Anything that accepts the frames of a film in order, ``t h w 3``, uint8."""

    def write(self, frames: Tensor) -> None: ...


class BackgroundWriter:
    """Calls `writer` in a background thread, with the same frames in the same order.

        with FilmWriter(...) as film, BackgroundWriter(film) as background:
            background.write(frames)

    `write` first waits for the previous clip, so at most one clip is pending. If writing a clip fails, the next `write`
    or the end of the block raises the exception. When the block ends, all clips are written. If the block raises, its
    exit waits for the pending clip, ignores that clip's own failure, and starts no other.
    """

    def __init__(self, writer: Writer):
        self._writer = writer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="film-writer")
        self._pending: Future | None = None

    def write(self, frames: Tensor) -> None:
        """Submits frames for writing. They must not be modified afterwards."""
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
