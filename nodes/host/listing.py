"""Lists folders without ever failing: what cannot be read, has vanished or never ends is left out.

Linked folders are followed, as the host does in its own. A dropdown that failed would hide its node from the page.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

DEPTH = 12  # folders below the first
ENTRIES = 50_000  # files and folders looked at: a link may lead to a whole disk

log = logging.getLogger(__name__)


def children(folder: Path) -> tuple[list[Path], list[Path]]:
    """Subfolders and files of a folder, each in the order of their names, without hidden ones and broken links. Both
    are empty if the folder cannot be read."""
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    _sort(entry, folders, files)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        log.debug("%s: not listed to its end (%s)", folder, error)
    return sorted(folders), sorted(files)


def files_below(root: Path) -> Iterator[Path]:
    """All files below a folder, the nearest first. A folder that a link puts inside itself is not entered again."""
    level: list[tuple[Path, frozenset]] = [(root, frozenset())]  # folders, each with the identities of those above it
    left = ENTRIES
    for _ in range(DEPTH + 1):
        inner = []
        for folder, above in level:
            identity = _identity(folder)
            if identity in above:
                continue
            folders, files = children(folder)
            if (left := left - len(folders) - len(files)) < 0:
                log.info("%s: more than %d entries: the rest is ignored", root, ENTRIES)
                return
            inner += [(path, above | {identity}) for path in folders]
            yield from files
        level = inner


def readable(name: str) -> str:
    """A file's name as text that every page and log can show: bytes that are not UTF-8 become `\\xe9`."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _sort(entry: os.DirEntry, folders: list[Path], files: list[Path]) -> None:
    try:
        if entry.is_dir():
            folders.append(Path(entry.path))
        elif entry.is_file():
            files.append(Path(entry.path))
    except OSError:  # a link to itself, or a disk that fails
        return


def _identity(folder: Path) -> tuple[int, int] | str:
    try:
        state = os.stat(folder)
    except (OSError, ValueError):
        return str(folder)
    return (state.st_dev, state.st_ino) if state.st_ino else os.path.realpath(folder)
