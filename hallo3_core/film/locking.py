"""A lock on a file that one process at a time can hold, free at once when it ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)  # the last one is Windows' word for it
_without_locks: set[int] = set()  # file systems that a warning was given for
_log = logging.getLogger(__name__)


class FileLock:
    """A lock that is held; see `try_lock`."""

    def __init__(self, path: Path, descriptor: int):
        self._path, self._descriptor = path, descriptor

    def release(self) -> None:
        """Remove the file and let others take it. Releasing twice does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        with contextlib.suppress(OSError):  # Windows removes no open file; the next owner, or nobody, does
            os.unlink(self._path)
        os.close(descriptor)


def try_lock(path: Path) -> FileLock | None:
    """Take the lock on a file, which is made; None while another process, or another caller in this one, holds it.

    Where the file system has no locks the answer is yes, with one warning: the file then keeps nobody out.

    Raises:
        OSError: the file cannot be made.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno in _HELD:
                os.close(descriptor)
                return None
            _warn(path.parent, descriptor, error)
            return FileLock(path, descriptor)
        if _is_at(descriptor, path):
            return FileLock(path, descriptor)
        os.close(descriptor)  # its owner removed it between our two calls: what we hold has no name any more


def _lock(descriptor: int) -> None:
    """Raises OSError: of `_HELD` where another has the lock; of other kinds where there are no locks."""
    if fcntl is None:
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _warn(path: Path, descriptor: int, error: OSError) -> None:
    """Once for each file system, not for each film of a batch."""
    device = os.fstat(descriptor).st_dev
    if device not in _without_locks:
        _without_locks.add(device)
        reason = error.strerror or error
        _log.warning("%s: no locks on this disk (%s). Start no second run that writes the same film.", path, reason)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
