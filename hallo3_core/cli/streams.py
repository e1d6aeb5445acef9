"""Standard output and error that never stop a run, even if they are closed, missing, or limited in encoding.

A Windows console may be unable to encode a path, the reader of a pipe may close it, and a program without a console
(pythonw, a service) has no streams at all.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO


class Tolerant:
    """A text stream that escapes characters it cannot encode, and drops all output once the stream has failed."""

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
        """The call's result; None if the stream is missing or fails. A failed stream is not used again."""
        if self._stream is None:
            return None
        try:
            return call()
        except (OSError, ValueError):  # closed by the reader or by us, or the disk is full
            _silence(self._stream)
            self._stream = None


class Once(logging.Filter):
    """Passes each message once, so that a LoRA's notes are not repeated for every film or every read."""

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
    """Wraps standard output and error in `Tolerant` inside the block."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(Tolerant, before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def occupy_descriptors() -> None:
    """Opens the null device on those of descriptors 0 to 2 that are closed.

    Otherwise the next opened file would get one of them, and a library that writes to standard error would write into
    that file.
    """
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)


def _silence(stream: TextIO) -> None:
    """Redirects the stream to the null device, so that Python does not fail when it flushes the buffer at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
