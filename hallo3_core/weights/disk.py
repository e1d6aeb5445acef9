"""What a disk can be asked for, where not every disk answers: network and user-space ones lack some of it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import IO

# Of a call that a file system does not have; ENOLCK: its lock service is not there.
MISSING = frozenset(
    getattr(errno, name)
    for name in ("ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EINVAL", "ENOLCK", "ENOTTY", "EPROTONOSUPPORT", "EROFS")
    if hasattr(errno, name)
)


def to_disk(file: IO[bytes]) -> None:
    """What was written to an open file, onto the disk, as far as the disk can be asked to.

    Raises:
        OSError: the disk is full or fails.
    """
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in MISSING:
            raise


def free_bytes(folder: Path) -> int | None:
    """Room on the disk where `folder` lies or will be made; None where the disk does not say."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.free if usage.total else None
