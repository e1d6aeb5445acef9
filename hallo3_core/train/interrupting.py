"""Handles SIGTERM, SIGHUP and Ctrl-C: the run stops between two steps, so that it can write a checkpoint first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """The run was asked to stop and has written a checkpoint; the same command resumes it. `number`: the signal's."""

    def __init__(self, number: int = signal.SIGTERM):
        super().__init__("stopped; the same command resumes the run")
        self.number = number


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], int]]:
    """Yields a function that gives the number of the signal that asked to stop, 0 if none did; a second Ctrl-C stops
    the process at once."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return

    def ask(number, frame):
        asked.append(number)
        if asked.count(signal.SIGINT) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield lambda: asked[0] if asked else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
