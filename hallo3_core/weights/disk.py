"""Disk operations that some file systems, such as network and user-space ones, do not fully support."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import IO

# Errors of calls that a file system does not support; ENOLCK: its lock service is missing.
MISSING = frozenset(
    getattr(errno, name)
    for name in ("ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EINVAL", "ENOLCK", "ENOTTY", "EPROTONOSUPPORT", "EROFS")
    if hasattr(errno, name)
)


def to_disk(file: IO[bytes]) -> None:
    """Flushes an open file to the disk, as far as the file system supports that.

    Raises:
        OSError: the disk is full or fails.
    """
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in MISSING:
            raise


def folder_to_disk(folder: Path) -> None:
    """Syncs a folder, without which a new name may not be on disk. Systems that cannot do this do not need it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def free_bytes(folder: Path) -> int | None:
    """Free bytes on the disk where `folder` is or will be created; None if the disk does not report them."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.free if usage.total else None


def size_text(count: int) -> str:
    """A size in bytes as readable text, in powers of ten as disk makers count."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"
