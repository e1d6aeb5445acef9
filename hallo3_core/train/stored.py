"""Computed tensors on disk, named by what they were computed from; and the hashes of files, remembered while they stay.

A file is written whole or not at all. One that is damaged, or belongs to a disk that lost it, is computed again.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError
from ..film.fingerprint import file_digest
from ..weights.disk import to_disk
from ..weights.reading import read_tensors

CHECK = "check"  # in a file's metadata
BLOCKS, BLOCK = 256, 1024  # looked at per tensor, and bytes of each
Tensors = dict[str, Tensor]
log = logging.getLogger(__name__)


class TensorStore:
    """A folder of tensors by kind and key; without a folder nothing is kept."""

    def __init__(self, folder: Path | None):
        self.folder = folder

    def has(self, kind: str, key: str) -> bool:
        return self.folder is not None and self._path(kind, key).exists()

    def get(self, kind: str, key: str) -> Tensors | None:
        """Memory-mapped tensors; None if there are none, or if their file is damaged, which is removed."""
        if not self.has(kind, key):
            return None
        path = self._path(kind, key)
        try:
            tensors = read_tensors(path)
            with safe_open(path, "pt") as file:
                if (file.metadata() or {}).get(CHECK) == _check(tensors):
                    return tensors
            reason = "its content changed"
        except (InputError, OSError, SafetensorError) as error:
            reason = str(error)
        log.warning("%s: damaged, so it is computed again (%s)", path, reason)
        path.unlink(missing_ok=True)
        return None

    def put(self, kind: str, key: str, tensors: Tensors) -> Tensors:
        """Keeps tensors and returns them as `get` does.

        Raises:
            InputError: the disk is full, or the folder cannot be written.
        """
        if self.folder is None:
            return tensors
        path = self._path(kind, key)
        unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(tensors, unfinished, {CHECK: _check(tensors)})
            with open(unfinished, "rb+") as file:
                to_disk(file)
            os.replace(unfinished, path)
        except Exception as error:  # safetensors wraps OSError
            unfinished.unlink(missing_ok=True)
            raise InputError(
                f"{path}: the cache cannot be written ({error}). Free some room, or set data.cache."
            ) from error
        return read_tensors(path)

    def computed(self, kind: str, key: str, compute: Callable[[], Tensors]) -> Tensors:
        """What is kept, else what `compute` returns, kept."""
        found = self.get(kind, key)
        return found if found is not None else self.put(kind, key, compute())

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key}.safetensors"


def _check(tensors: Tensors) -> str:
    """A checksum of both ends and some of the bytes between, of each tensor: a lost or cut block of a disk shows."""
    total = 0
    for name in sorted(tensors):
        content = tensors[name].detach().flatten().view(torch.uint8)
        starts = torch.linspace(0, max(0, len(content) - BLOCK), BLOCKS, dtype=torch.float64).long().unique()
        for start in starts.tolist():
            total = zlib.crc32(content[start : start + BLOCK].numpy(), total)
    return f"{total:08x}"


class Digests:
    """SHA-256 of whole files. A file of the same path, size and time is not read again, also in a later run."""

    FILE = "files.json"

    def __init__(self, folder: Path | None):
        self._path = folder / self.FILE if folder else None
        self._known: dict[str, list] = {}
        if self._path is not None and self._path.is_file():
            try:
                self._known = {str(k): list(v) for k, v in json.loads(self._path.read_text("utf-8")).items()}
            except (OSError, ValueError, AttributeError, TypeError):
                log.info("%s: not readable, so all files are hashed again", self._path)

    def of(self, path: Path) -> str:
        """The file's SHA-256.

        Raises:
            InputError: it cannot be read.
        """
        name = str(path.resolve())
        try:
            status = path.stat()
            facts = [status.st_size, status.st_mtime_ns]
            if self._known.get(name, [])[:2] != facts:
                self._known[name] = [*facts, file_digest(path)]
                self._keep()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
        return self._known[name][2]

    def _keep(self) -> None:
        if self._path is None:
            return
        unfinished = self._path.with_suffix(f".{os.getpid()}.unfinished")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(json.dumps(self._known), "utf-8")
            os.replace(unfinished, self._path)
        except OSError as error:  # only speed is lost
            log.info("%s: cannot be written (%s)", self._path, error)
