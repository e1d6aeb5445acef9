"""Reads tensor files: memory-mapped, and never running code from them. The content determines the format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..model.config import Shape
from . import safetensors_format, torch_format
from .mapping import Slot, map_tensors
from .torch_pickle import outline

_OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of torch files before the zip format

BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # of UTF-8, which some editors put before a text


class Format(Enum):
    SAFETENSORS = "a safetensors file"
    TORCH = "a torch checkpoint"
    OLD_TORCH = "a torch checkpoint in the old format, before zip"
    PICKLE = "a bare Python pickle"
    ONNX = "an ONNX file"
    GGUF = "a GGUF file"
    EMPTY = "empty"
    TEXT = "a text file"
    OTHER = "neither a safetensors file nor a torch checkpoint"


class Entry(NamedTuple):
    """A tensor as a header describes it."""

    shape: Shape
    dtype: torch.dtype

    @property
    def parameters(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def bytes(self) -> int:
        return self.parameters * self.dtype.itemsize


class FileContent(NamedTuple):
    """A file's tensors, which are mapped, by name, and the metadata of a safetensors file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_file(path: Path | str) -> FileContent:
    """Maps all tensors of a file, with its metadata; for files of which both are used.

    Raises:
        InputError: as `read_tensors`.
    """
    path = Path(path)
    with _one_line_errors(path):
        slots, metadata = _read(path)
        return FileContent(map_tensors(path, slots), metadata)


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Maps all tensors of a `.pt` or `.safetensors` file, by name.

    Raises:
        InputError: no such file, neither format, damaged, without tensors, or a pickle that could run code.
    """
    return read_file(path).tensors


def read_header(path: Path | str) -> dict[str, Entry]:
    """Shape and type of each tensor of a file, without reading values.

    Raises:
        InputError: as `read_tensors`.
    """
    path = Path(path)
    with _one_line_errors(path):
        return {name: Entry(slot.shape, slot.dtype) for name, slot in _read(path)[0].items()}


def read_metadata(path: Path | str) -> dict[str, str]:
    """The metadata of a safetensors file; empty for a torch checkpoint, which has none.

    Raises:
        InputError: as `read_tensors`.
    """
    path = Path(path)
    with _one_line_errors(path):
        return _read(path)[1]


def format_of(path: Path | str) -> Format:
    """The format of a file, by its first bytes.

    Raises:
        InputError: no such file, a folder, or not readable.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file")
    if not path.is_file():
        raise InputError(f"{path}: no such file" if not path.exists() else f"{path}: not a regular file")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if start.startswith(b"PK\3\4"):
        return Format.TORCH
    if start.startswith(_OLD_TORCH):
        return Format.OLD_TORCH
    if start.startswith(b"GGUF"):
        return Format.GGUF
    if not start:
        return Format.EMPTY
    start = start.removeprefix(BYTE_ORDER_MARK)
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        return Format.TEXT
    if start[8:9] == b"{":
        return Format.SAFETENSORS
    if start[0] == 0x80 and start[1:2] <= b"\x05":
        return Format.PICKLE
    if (
        start[0] == 0x08
        and start[1:2] < b"\x20"
        and start[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x28", b"\x3a", b"\x42")
    ):
        return Format.ONNX  # field 1 is the format's version; another field of an ONNX model follows
    return Format.OTHER


def _read(path: Path) -> tuple[dict[str, Slot], dict[str, str]]:
    """The location of each tensor, and the metadata."""
    found, metadata = format_of(path), {}
    match found:
        case Format.TORCH:
            slots = torch_format.read_slots(path)
        case Format.SAFETENSORS:
            size = path.stat().st_size
            with path.open("rb") as file:
                length = safetensors_format.header_length(file.read(safetensors_format.LENGTH_BYTES), size)
                slots, metadata = safetensors_format.parse_header(file.read(length), size)
        case Format.OLD_TORCH:
            raise ValueError(f"{found.value}. Save it again: torch.save(torch.load(old, weights_only=True), new)")
        case _:
            if found is Format.PICKLE:
                with path.open("rb") as file:
                    outline(file.read(torch_format.PICKLE_LIMIT), {})  # a name that could run code is reported first
            raise ValueError(f"{found.value}, expected a safetensors file or a torch checkpoint")
    if not slots:
        raise ValueError("holds no tensors")
    return slots, metadata


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Turns any error from a damaged or hostile file into one line that names the file."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, OSError, OverflowError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: {first[:300]}") from error
