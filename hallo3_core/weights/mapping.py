"""Tensors as views of a file mapped into memory: a value is read from disk when it is first used, and never copied.

The mapping is private (writing to a tensor changes no file) and made of pieces: Linux refuses one private mapping that
is larger than the machine's memory, as the release's 29 GB file would be on most. torch.load(mmap=True) and safetensors
map a file in one piece.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..model.config import Shape

PIECE = 1 << 30  # bytes; a larger tensor is a piece of its own


class Slot(NamedTuple):
    """One tensor of a file: its shape, its type, its bytes counted from the start of the file, and its strides in
    elements where its rows do not simply follow each other."""

    shape: Shape
    dtype: torch.dtype
    start: int
    stop: int
    stride: Shape | None = None


def map_tensors(path: Path, slots: Mapping[str, Slot], piece: int = PIECE) -> dict[str, Tensor]:
    """The tensors of a file, in the order of `slots`, which must lie inside the file.

    Raises:
        OSError: the file cannot be opened or mapped.
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
                mapped = mmap.mmap(file.fileno(), stop - start, access=mmap.ACCESS_COPY, offset=start)
            tensors[name] = _view(mapped, slot, slot.start - start)
    return {name: tensors[name] for name in slots}


def _view(mapped: mmap.mmap, slot: Slot, offset: int) -> Tensor:
    size = slot.stop - slot.start
    if offset % slot.dtype.itemsize:  # a writer that does not align: numbers cannot be read in place
        values = torch.frombuffer(mapped, dtype=torch.uint8, count=size, offset=offset).clone().view(slot.dtype)
    else:
        values = torch.frombuffer(mapped, dtype=slot.dtype, count=size // slot.dtype.itemsize, offset=offset)
    return values.view(slot.shape) if slot.stride is None else values.as_strided(slot.shape, slot.stride)
