"""Identifies model files by their content, never by name: one file, the shards of a model, or a whole folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, own_command
from ..weights.kinds import LABELS, TRANSFORMER_PARTS, Found, Kind, identify, identify_onnx
from ..weights.onnx_outline import read_onnx_outline
from ..weights.reading import Entry, Format, format_of, read_header, read_metadata
from ..weights.shards import files_of, is_index, model_file, read_index

TENSOR_FORMATS = (Format.SAFETENSORS, Format.TORCH)


@dataclass(frozen=True)
class IdentifiedFile:
    """A file, or the shards of one model, with its kind. For shards, `path` is their index."""

    path: Path
    found: Found
    header: Mapping[str, Entry]
    files: tuple[Path, ...]


def identify_file(path: Path | str) -> IdentifiedFile:
    """Identifies one file; an index stands for its shards. An unreadable file is `Kind.BROKEN`, with the reason.

    Raises:
        InputError: no such file.
    """
    path = Path(path)
    kind = format_of(path)
    try:
        if kind in TENSOR_FORMATS:
            header = read_header(path)
            return IdentifiedFile(path, identify(header, read_metadata(path)), header, (path,))
        if kind is Format.ONNX:
            return IdentifiedFile(path, identify_onnx(read_onnx_outline(path)), {}, (path,))
        if kind is Format.TEXT and (weights := read_index(path)):
            return _sharded(path, weights)
        if kind in (Format.TEXT, Format.OTHER):
            return IdentifiedFile(path, Found(Kind.UNKNOWN, kind.value), {}, (path,))
        read_header(path)  # old or bare pickles, GGUF, empty files: rejected with the reason
    except (InputError, ValueError, OSError) as error:
        return IdentifiedFile(path, Found(Kind.BROKEN, str(error).removeprefix(f"{path}: ")), {}, (path,))
    raise AssertionError(f"{path}: {kind} was read after all")


def find_files(path: Path | str) -> list[IdentifiedFile]:
    """Identifies every model file in a folder (a release, a ComfyUI models folder or any other), or a single file.

    Other files, such as texts and pictures, are skipped. Shards listed in an index count as one model.

    Raises:
        InputError: no such file or folder.
    """
    path = Path(path)
    if not path.is_dir():
        return [identify_file(path)]
    files = sorted(_walk(path))
    models = [file for file in files if format_of(file) not in (Format.TEXT, Format.OTHER, Format.EMPTY)]
    indices = [identify_file(file) for file in files if is_index(file) and read_index(file)]
    sharded = {shard.resolve() for index in indices for shard in index.files}
    return indices + [identify_file(file) for file in models if file.resolve() not in sharded]


def expect(path: Path | str, part: str) -> Found:
    """Identifies a file that must hold `part` (a key of `LABELS`).

    Raises:
        InputError: it does not, or cannot be read; the message says what the file is instead.
    """
    path = model_file(Path(path))
    found = identify_file(path).found
    if part in found.parts:
        return found
    if found.kind is Kind.BROKEN:
        raise InputError(f"{path}: {found.detail}")
    advice = found.advice if part in TRANSFORMER_PARTS and found.advice else f"Choose {LABELS[part]}."
    if found.kind is Kind.COGVIDEOX:
        advice += f" To get it, run: {own_command('download', 'FOLDER')}"
    raise InputError(
        f"{path.name} is {found.detail}{'.' if ':' in found.detail else f', not {LABELS[part]}.'} {advice}"
    )


def _sharded(index: Path, weights: Mapping[str, str]) -> IdentifiedFile:
    """Identifies shards as one model; each must exist and hold the tensors that the index assigns to it."""
    files = tuple(files_of(index))
    header: dict[str, Entry] = {}
    for file in files:
        header |= read_header(file)
    if lacking := sorted(weights.keys() - header.keys()):
        raise InputError(f"{index}: {len(lacking)} tensors are in none of its shards ({lacking[0]}, ...)")
    return IdentifiedFile(index, identify(header), header, files)


def _walk(folder: Path) -> Iterator[Path]:
    """Regular files under a folder. Follows links, visits nothing twice, and skips hidden files and folders."""
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            yield from (Path(root, name) for name in files if not name.startswith(".") and Path(root, name).is_file())
        seen.add(real)
