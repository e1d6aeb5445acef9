"""Writes safetensors files of any size in little memory: the header first, then the tensors in chunks.

A file is written under a temporary name, read back and compared, and only then renamed, so a file with the final name
is complete. Format: https://huggingface.co/docs/safetensors (eight bytes of header length, a JSON header, the values).
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from .disk import to_disk
from .reading import read_metadata
from .safetensors_format import DTYPES, LENGTH_BYTES

CHECKSUM = "crc32"  # metadata key: CRC of all values, eight hexadecimal digits
READ_BYTES = 16 << 20

OnBytes = Callable[[int], None]  # called with the number of bytes just written
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class NewTensor:
    """A tensor of the file to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def header(entries: Sequence[NewTensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes before the values; each tensor must start at a multiple of its item size."""
    content: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for entry in entries:
        if offset % entry.dtype.itemsize:
            raise ValueError(f"{entry.name} would start at byte {offset}, which is not aligned for {entry.dtype}")
        end = offset + entry.bytes
        content[entry.name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_streamed(
    path: Path,
    entries: Sequence[NewTensor],
    pieces: Iterable[Tensor],
    metadata: Mapping[str, str],
    on_bytes: OnBytes | None = None,
) -> None:
    """Writes `pieces` (the tensors in the order of `entries`, each in one or more chunks of rows) to `path`.

    Raises:
        InputError: the file cannot be written or read back. After any error, `path` is unchanged.
        ValueError: pieces do not match the entries.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    placeholder = {**metadata, CHECKSUM: "0" * 8}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(header(entries, placeholder))
            checksum = 0
            for values in _in_order(entries, iter(pieces)):
                file.write(values)
                checksum = zlib.crc32(values, checksum)
                if on_bytes:
                    on_bytes(len(values))
            file.seek(0)
            file.write(header(entries, {**metadata, CHECKSUM: f"{checksum:08x}"}))
            _settle(file)
        verify(unfinished)
        os.replace(unfinished, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        unfinished.unlink(missing_ok=True)


def verify(path: Path) -> None:
    """Reads a written file and compares its values with the checksum in its metadata.

    Raises:
        InputError: header or values differ from what was written.
    """
    expected = read_metadata(path).get(CHECKSUM)  # the header is intact, and the file has the size it states
    checksum = 0
    with path.open("rb") as file:
        file.seek(LENGTH_BYTES + int.from_bytes(file.read(LENGTH_BYTES), "little"))
        while block := file.read(READ_BYTES):
            checksum = zlib.crc32(block, checksum)
    if f"{checksum:08x}" != expected:
        raise InputError(
            f"{path}: reads back with checksum {checksum:08x}, expected {expected}. The disk may be failing; "
            "convert again, to another disk if it happens twice."
        )


def _in_order(entries: Sequence[NewTensor], pieces: Iterable[Tensor]) -> Iterable[memoryview]:
    """Yields the bytes of each chunk, checked against its entry."""
    for entry in entries:
        missing = entry.bytes
        while missing:
            piece = next(pieces, None)
            if piece is None or piece.dtype != entry.dtype or piece.nbytes > missing or not piece.nbytes:
                found = "nothing" if piece is None else f"{piece.dtype} {list(piece.shape)}"
                raise ValueError(f"{entry.name}: {missing} bytes of {entry.dtype} to come, got {found}")
            missing -= piece.nbytes
            yield memoryview(piece.contiguous().flatten().view(torch.uint8).numpy())
    if next(pieces, None) is not None:
        raise ValueError("more tensors than entries")


def _settle(file) -> None:
    """Flushes to disk, and drops the system's cache where possible, so that reading back reads the disk."""
    to_disk(file)
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
