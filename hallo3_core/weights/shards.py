"""Models in several files (shards), with an index that maps tensors to files.

A path to one shard or to the index stands for the whole model.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from torch import Tensor

from ..errors import InputError
from .reading import read_tensors

INDEX = re.compile(r".+\.index(\.\w+)?\.json")  # the second part names a variant, such as fp16
INDEX_LIMIT = 16 << 20  # bytes; T5-XXL's has 20 kB


def is_index(path: Path) -> bool:
    """Whether a file's name is that of a shard index."""
    return INDEX.fullmatch(path.name) is not None


def read_index(path: Path) -> dict[str, str] | None:
    """The map from tensor to shard if the file is a shard index, else None."""
    try:
        if path.stat().st_size > INDEX_LIMIT:
            return None
        weights = json.loads(path.read_text(encoding="utf-8-sig"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return weights if isinstance(weights, dict) and all(isinstance(name, str) for name in weights.values()) else None


def model_file(path: Path) -> Path:
    """The index in the file's folder that lists it as a shard; else the file itself."""
    for index in sorted(filter(is_index, path.parent.glob("*.json"))):
        if path.name in (read_index(index) or {}).values():
            return index
    return path


def files_of(path: Path) -> list[Path]:
    """The shards listed in an index; for any other file, the file itself.

    Raises:
        InputError: a shard is missing or lies outside the index's folder.
    """
    weights = read_index(path) if is_index(path) else None
    if not weights:
        return [path]
    shards = []
    for name in sorted(set(weights.values())):
        if Path(name).name != name:
            raise InputError(
                f"{path}: names the file {name!r} outside its folder, expected a plain name of a file beside it"
            )
        if not (path.parent / name).is_file():
            raise InputError(f"{path.parent / name}: missing, {path.name} names it. Download it.")
        shards.append(path.parent / name)
    return shards


def read_model(path: Path) -> dict[str, Tensor]:
    """Reads all tensors of a model from its only file, one of its shards, or its index.

    Raises:
        InputError: as `read_tensors` and `files_of`, or a tensor listed in the index is in no shard.
    """
    path = model_file(path)
    tensors: dict[str, Tensor] = {}
    for file in files_of(path):
        tensors |= read_tensors(file)
    named = read_index(path) if is_index(path) else None
    if lacking := sorted((named or {}).keys() - tensors.keys()):
        raise InputError(f"{path}: {len(lacking)} tensors are in none of its shards ({lacking[0]}, ...)")
    return tensors
