"""A model in several files, and the index that says which tensor is in which.

Whoever names one shard, or the index, means the model.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from ..errors import InputError
from .reading import read_tensors

INDEX = ".index.json"
INDEX_LIMIT = 16 << 20  # bytes; T5-XXL's has 20 kB


def read_index(path: Path) -> dict[str, str] | None:
    """Tensor to shard, if the file is a shard index."""
    try:
        if path.stat().st_size > INDEX_LIMIT:
            return None
        weights = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return weights if isinstance(weights, dict) and all(isinstance(name, str) for name in weights.values()) else None


def model_file(path: Path) -> Path:
    """The index beside a file that names it as one of its shards; else the file itself."""
    for index in sorted(path.parent.glob(f"*{INDEX}")):
        if path.name in (read_index(index) or {}).values():
            return index
    return path


def files_of(path: Path) -> list[Path]:
    """The shards that an index names; of another file, that file.

    Raises:
        InputError: a shard is missing or named outside the index's folder.
    """
    weights = read_index(path) if path.name.endswith(INDEX) else None
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
    """All tensors of the model that a file is, or is a shard or the index of.

    Raises:
        InputError: as `read_tensors` and `files_of`; or a tensor that the index names is nowhere.
    """
    path = model_file(path)
    tensors: dict[str, Tensor] = {}
    for file in files_of(path):
        tensors |= read_tensors(file)
    named = read_index(path) if path.name.endswith(INDEX) else None
    if lacking := sorted((named or {}).keys() - tensors.keys()):
        raise InputError(f"{path}: {len(lacking)} tensors are in none of its shards ({lacking[0]}, ...)")
    return tensors
