"""A file lock that one process at a time can hold. It is released when the process ends, even if it crashes."""

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


_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)  # EACCES is what Windows reports
_without_locks: set[int] = set()  # file systems that were already warned about
_log = logging.getLogger(__name__)


class FileLock:
    """A held lock; see `try_lock`."""

    def __init__(self, path: Path, descriptor: int):
        self._path, self._descriptor = path, descriptor

    def release(self) -> None:
        """Removes the file and releases the lock. A second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        with contextlib.suppress(OSError):  # Windows cannot remove an open file; the next owner may do it
            os.unlink(self._path)
        os.close(descriptor)


def try_lock(path: Path) -> FileLock | None:
    """Creates a file and locks it; None if another process, or another caller in this process, holds the lock.

    If the file system has no locks, this succeeds with one warning, and the lock then excludes nobody.

    Raises:
        OSError: the file cannot be created.
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
        os.close(descriptor)  # the previous owner removed it between open and lock, so this file has no name any more


def _lock(descriptor: int) -> None:
    """Raises OSError: an errno in `_HELD` if the lock is taken, another errno if the file system has no locks."""
    if fcntl is None:
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _warn(path: Path, descriptor: int, error: OSError) -> None:
    """Warns once per file system, not for each film of a batch."""
    device = os.fstat(descriptor).st_dev
    if device not in _without_locks:
        _without_locks.add(device)
        reason = error.strerror or error
        _log.warning(
            "%s: this disk has no file locks (%s). Do not start a second run that writes the same video.", path, reason
        )


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
