"""Tensors as views of a memory-mapped file: a value is read from disk when it is first used, and never copied.

The mapping is read-only. Windows charges a writable mapping, even a private one, in full against memory and page file:
29 GB for the release before the first weight is used. So these tensors must not be written to: the system kills a
process that tries. A file is mapped in pieces, each of which is unmapped once its tensors are freed;
torch.load(mmap=True) and safetensors map the whole file at once.
"""

from __future__ import annotations

import errno
import mmap
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from ..model.config import Shape

MOST_DIMENSIONS = 16  # of a tensor; real ones have at most five
LARGEST_COUNT = 1 << 48  # of elements; the release's largest tensor has a third of 2 ** 32
NOT_MAPPABLE = (errno.ENODEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES)
PIECE = 1 << 30  # bytes; a larger tensor gets its own piece

Content = mmap.mmap | bytearray


class Slot(NamedTuple):
    """One tensor of a file: its shape, its type, its bytes counted from the start of the file, and its strides in
    elements if it is not contiguous."""

    shape: Shape
    dtype: torch.dtype
    start: int
    stop: int
    stride: Shape | None = None


def is_count(value: object) -> bool:
    """Whether a header's value is a plausible number of elements or bytes. Check this before multiplying such values,
    because integers in a header can have any length."""
    return type(value) is int and 0 <= value < LARGEST_COUNT


def map_tensors(path: Path, slots: Mapping[str, Slot], piece: int = PIECE) -> dict[str, Tensor]:
    """Maps the tensors of a file, in the order of `slots`, which must lie inside the file. They must not be written to.

    Raises:
        OSError: the file cannot be opened or read.
    """
    tensors: dict[str, Tensor] = {}
    content, start, stop = None, 0, 0
    with path.open("rb") as file:
        end = path.stat().st_size
        for name, slot in sorted(slots.items(), key=lambda item: item[1].start):
            if slot.start == slot.stop:
                tensors[name] = torch.empty(slot.shape, dtype=slot.dtype)
                continue
            if content is None or slot.stop > stop:
                start = slot.start - slot.start % mmap.ALLOCATIONGRANULARITY
                stop = min(end, max(start + piece, slot.stop))
                content = map_file(file, start, stop)
            tensors[name] = _view(content, slot, slot.start - start)
    return {name: tensors[name] for name in slots}


def map_file(file: BinaryIO, start: int, stop: int) -> Content:
    """Maps a piece of the file, or reads it if the file system has no mapping (some network and user-space ones).

    Raises:
        OSError: it cannot be read.
    """
    try:
        return mmap.mmap(file.fileno(), stop - start, access=mmap.ACCESS_READ, offset=start)
    except OSError as error:
        if error.errno not in NOT_MAPPABLE:
            raise
        file.seek(start)
        content = bytearray(stop - start)
        if file.readinto(content) != len(content):
            raise OSError(f"cut short while it was read: {stop - start:,} bytes from {start:,} on") from error
        return content


def _view(content: Content, slot: Slot, offset: int) -> Tensor:
    size = slot.stop - slot.start
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that the tensor is not writable
        if offset % slot.dtype.itemsize:  # unaligned by its writer: numbers cannot be read in place
            values = torch.frombuffer(content, dtype=torch.uint8, count=size, offset=offset).clone().view(slot.dtype)
        else:
            values = torch.frombuffer(content, dtype=slot.dtype, count=size // slot.dtype.itemsize, offset=offset)
    return values.view(slot.shape) if slot.stride is None else values.as_strided(slot.shape, slot.stride)
