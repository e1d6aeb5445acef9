"""The terminal's streams, which may be narrow, closed or missing: nothing that is written there stops a run.

A Windows console may not know the letters of a path, a pipe may be closed at its other end, and a program without a
window (pythonw, a service) has no streams at all.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO


class Tolerant:
    """A text stream that spells what it cannot show in ASCII, and is silent once it is gone."""

    def __init__(self, stream: TextIO | None):
        self._stream = stream

    def write(self, text: str) -> int:
        def write() -> None:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = getattr(self._stream, "encoding", None) or "ascii"
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

        self._if_there(write)
        return len(text)

    def flush(self) -> None:
        self._if_there(lambda: self._stream.flush())

    def isatty(self) -> bool:
        return bool(self._if_there(lambda: self._stream.isatty()))

    def __getattr__(self, name: str) -> Any:
        stream = self.__dict__.get("_stream")
        if stream is None:
            raise AttributeError(name)
        return getattr(stream, name)

    def _if_there(self, call: Callable[[], Any]) -> Any:
        """What the call gives; None once the stream has failed, after which it is not asked again."""
        if self._stream is None:
            return None
        try:
            return call()
        except (OSError, ValueError):  # closed at the other end, or here; a full disk
            _silence(self._stream)
            self._stream = None


class Once(logging.Filter):
    """Lets each message through once: a LoRA's remarks not again for every film, or for each time that it is read."""

    def __init__(self):
        super().__init__()
        self._said: set[tuple[int, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = (record.levelno, record.getMessage())
        is_new = message not in self._said
        self._said.add(message)
        return is_new


@contextlib.contextmanager
def tolerant_streams() -> Iterator[None]:
    """Standard output and error as `Tolerant` for as long as this takes."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(Tolerant, before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def occupy_descriptors() -> None:
    """Give descriptors 0 to 2 to the null device where they are closed: else the next file that is opened gets one,
    and whatever a library writes to standard error is written into it."""
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)


def _silence(stream: TextIO) -> None:
    """What still waits in the stream goes nowhere, or Python fails at its end when it writes it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
