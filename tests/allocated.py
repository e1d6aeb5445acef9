"""Memory that a process has allocated, as the C library counts it: exact, and the same on a machine that swaps."""

from __future__ import annotations

import ctypes
import sys


class _Counts(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def is_counted() -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallinfo2")


def allocated() -> int:
    """Bytes in use: of all heaps, and of the large blocks beside them."""
    count = ctypes.CDLL(None).mallinfo2
    count.restype = _Counts
    found = count()
    return found.uordblks + found.hblkhd
