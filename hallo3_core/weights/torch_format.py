"""The torch checkpoint format (`.pt`): a zip archive with a pickle that lists the tensors, and records with the values.

Source: the layout that torch.save writes, and the description of the zip format.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from .mapping import Slot
from .safetensors_format import check_name
from .torch_pickle import Foreign, Stored, outline

PICKLE_LIMIT = 8 << 20  # bytes; the whole file's has 0.5 MB. Reading one takes up to 70 times its size in memory
_log = logging.getLogger(__name__)
_warned: set[tuple[str, ...]] = set()  # warnings already logged; a run reads a file more than once
WRAPPERS = ("module", "state_dict")  # keys under which training programs store the tensors


def read_slots(path: Path) -> dict[str, Slot]:
    """The tensors of a checkpoint by name, with their location in the file. Reads no values and runs no code.

    Raises:
        ValueError: not an archive written by torch.save, damaged, compressed, or a pickle that asks for something other
            than tensors and inert state; the message names it.
    """
    root, records, end = _records(path)
    pickled = records[root + "data.pkl"]
    if pickled.file_size > PICKLE_LIMIT:
        raise ValueError(f"its list of tensors claims {pickled.file_size:,} bytes, more than any real one")
    prefix = root + "data/"
    sizes = {name.removeprefix(prefix): record.file_size for name, record in records.items() if name.startswith(prefix)}
    with path.open("rb") as file:
        if root + "byteorder" in records and _read(file, records[root + "byteorder"], end) != b"little":
            raise ValueError("its numbers are not in little-endian order, as a file of this kind of machine has them")
        notes: list[str] = []
        tensors, made_elsewhere = _tensors(outline(_read(file, pickled, end), sizes, notes))
        _warn_of_skipped(path, notes, made_elsewhere, len(tensors))
        starts = {key: _start(file, records[prefix + key], end) for key in {stored.key for stored in tensors.values()}}
    return {name: _slot(stored, starts[stored.key]) for name, stored in tensors.items()}


def _records(path: Path) -> tuple[str, dict[str, zipfile.ZipInfo], int]:
    """The folder of all records, the records by name, and the end of the last one."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries, end = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ValueError(f"a damaged archive or one cut short ({error}); download it again") from error
    records = {entry.filename: entry for entry in entries}
    if len(records) != len(entries):
        raise ValueError("its archive holds two records of one name")
    pickles = [name for name in records if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("a zip archive, but not a torch checkpoint (no data.pkl in it)")
    root = pickles[0].removesuffix("data.pkl")
    if root + "constants.pkl" in records:
        raise ValueError("a TorchScript program, expected a checkpoint of tensors")
    for name, entry in records.items():
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise ValueError(
                f"its record {name[:80]!a} is compressed ({entry.compress_size:,} bytes that unpack to"
                f" {entry.file_size:,}); torch.save compresses nothing, so this is not its work"
            )
    return root, records, end


def _warn_of_skipped(path: Path, notes: list[str], made_elsewhere: list[str], tensors: int) -> None:
    """Logs one warning about everything that was skipped; if no tensors are left, raises that as the reason."""
    if notes and not tensors:
        raise ValueError(f"refused: its pickle {notes[0]}, and holds no tensors beside it")
    warning = (str(path), *notes)
    if not notes or warning in _warned:
        return
    _warned.add(warning)
    more = f" (and {len(notes) - 1} more such things)" if len(notes) > 1 else ""
    lost = f"; left out with it: {', '.join(made_elsewhere[:3])}" if made_elsewhere else ""
    _log.warning("%s: its pickle %s%s: skipped, and nothing was executed%s", path, notes[0], more, lost)


def _tensors(content: object) -> tuple[dict[str, Stored], list[str]]:
    """The tensors of the innermost table, and the names of objects there that other programs would create."""
    outer = content
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    table: Mapping = content if isinstance(content, dict) else {}
    named = {key: value for key, value in table.items() if isinstance(key, str)}
    elsewhere = [key for key, value in named.items() if isinstance(value, Foreign)] if content is not outer else []
    return {check_name(key): value for key, value in named.items() if isinstance(value, Stored)}, elsewhere


def _slot(stored: Stored, start: int) -> Slot:
    size, itemsize = 1, stored.dtype.itemsize
    plain = []  # strides of a contiguous tensor
    for count in reversed(stored.shape):
        plain.insert(0, size)
        size *= count
    span = 1 + sum((count - 1) * step for count, step in zip(stored.shape, stored.stride, strict=True)) if size else 0
    start += stored.offset * itemsize
    stride = None if list(stored.stride) == plain else stored.stride
    return Slot(stored.shape, stored.dtype, start, start + span * itemsize, stride)


def _start(file: BinaryIO, record: zipfile.ZipInfo, end: int) -> int:
    """The start of a record's bytes: after the record's header, which has to be read to know its length."""
    file.seek(record.header_offset)
    local = file.read(30)
    start = record.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    if len(local) < 30 or not local.startswith(b"PK\3\4") or start + record.file_size > end:
        raise ValueError(f"damaged: its record {record.filename[:80]!a} is not where its archive says")
    return start


def _read(file: BinaryIO, record: zipfile.ZipInfo, end: int) -> bytes:
    """Reads a record's bytes. The checksum is not verified, because torch can be set not to write one."""
    file.seek(_start(file, record, end))
    return file.read(record.file_size)
