"""Processor time as a ratio: what work costs beside a fixed piece of Python, the same on a slow or busy machine."""

from __future__ import annotations

import time
from collections.abc import Callable


def cost(work: Callable[[], object]) -> float:
    """Processor time of `work`, in units of a million additions on the same machine just before."""
    return _seconds(work) / unit()


def unit() -> float:
    """Processor seconds of a million additions, here and now."""
    return min(_seconds(_additions) for _ in range(3))


def _additions() -> int:
    total = 0
    for n in range(1_000_000):
        total += n
    return total


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
