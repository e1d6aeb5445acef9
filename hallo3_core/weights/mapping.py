"""Tensors as views of a file mapped into memory: a value is read from disk when it is first used, and never copied.

The mapping is read-only: a writable one, even private to the process, is charged by Windows in full against memory and
page file, which for the release is 29 GB before the first weight is used. So nothing may be written to these tensors:
the system ends the process that tries. The mapping is made of pieces, each of which goes when its tensors are gone.
torch.load(mmap=True) and safetensors map a file in one piece.
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

MOST_DIMENSIONS = 16  # of a tensor; real ones have five
LARGEST_COUNT = 1 << 48  # of elements; the largest of the release has a third of 2 ** 32
NOT_MAPPABLE = (errno.ENODEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES)
PIECE = 1 << 30  # bytes; a larger tensor is a piece of its own


class Slot(NamedTuple):
    """One tensor of a file: its shape, its type, its bytes counted from the start of the file, and its strides in
    elements where its rows do not simply follow each other."""

    shape: Shape
    dtype: torch.dtype
    start: int
    stop: int
    stride: Shape | None = None


def is_count(value: object) -> bool:
    """Whether a header's value is a number of elements or bytes that a file may have. To be asked before any of them
    are multiplied: integers in a header may be of any length."""
    return type(value) is int and 0 <= value < LARGEST_COUNT


def map_tensors(path: Path, slots: Mapping[str, Slot], piece: int = PIECE) -> dict[str, Tensor]:
    """The tensors of a file, in the order of `slots`, which must lie inside the file. They must not be written to.

    Raises:
        OSError: the file cannot be opened or read.
    """
    tensors: dict[str, Tensor] = {}
    mapped, start, stop = None, 0, 0
    with path.open("rb") as file:
        end = path.stat().st_size
        for name, slot in sorted(slots.items(), key=lambda item: item[1].start):
            if slot.start == slot.stop:
                tensors[name] = torch.empty(slot.shape, dtype=slot.dtype)
                continue
            if mapped is None or slot.stop > stop:
                start = slot.start - slot.start % mmap.ALLOCATIONGRANULARITY
                stop = min(end, max(start + piece, slot.stop))
                mapped = _mapped(file, start, stop)
            tensors[name] = _view(mapped, slot, slot.start - start)
    return {name: tensors[name] for name in slots}


def _mapped(file: BinaryIO, start: int, stop: int) -> mmap.mmap | bytearray:
    """A piece of the file; in memory where the file system maps none (some network and user-space ones)."""
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


def _view(mapped: mmap.mmap | bytearray, slot: Slot, offset: int) -> Tensor:
    size = slot.stop - slot.start
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that the tensor is not writable
        if offset % slot.dtype.itemsize:  # a writer that does not align: numbers cannot be read in place
            values = torch.frombuffer(mapped, dtype=torch.uint8, count=size, offset=offset).clone().view(slot.dtype)
        else:
            values = torch.frombuffer(mapped, dtype=slot.dtype, count=size // slot.dtype.itemsize, offset=offset)
    return values.view(slot.shape) if slot.stride is None else values.as_strided(slot.shape, slot.stride)
