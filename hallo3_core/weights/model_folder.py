"""Finds the weights in a folder as transformers saves it: the rule for T5's, wav2vec2's and any other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from ..errors import InputError
from .config_file import read_json
from .shards import is_index, read_model

# `model.safetensors`, `pytorch_model.bin`, the index of either's shards, and each of these with a variant's name in it,
# such as `model.fp16.safetensors` and `model.safetensors.index.fp16.json`.
_WEIGHTS = re.compile(
    r"(?P<kind>model|pytorch_model)(\.(?P<variant>\w+))?\.(safetensors|bin)"
    r"|(?P<index>model|pytorch_model)\.(safetensors|bin)\.index(\.(?P<part>\w+))?\.json"
)
_SHARD = re.compile(r"(pytorch_)?model.*-\d{5}-of-\d{5}\.(safetensors|bin)")
USUAL = "model.safetensors, pytorch_model.bin or the index of their shards"


def find_weights(folder: Path) -> Path | None:
    """The folder's weights, or the index of their shards: without a variant's name rather than with one, safetensors
    rather than torch's format, shards rather than a single file."""
    return weights_among(path for path in folder.iterdir() if path.is_file())


def weights_among(files: Iterable[Path]) -> Path | None:
    """As `find_weights`, of the files of one folder."""
    found = []
    for path in files:
        if match := _WEIGHTS.fullmatch(path.name):
            variant = match["variant"] or match["part"] or ""
            found.append((variant != "", "pytorch" in path.name, not match["index"], variant, path))
    return min(found)[-1] if found else None


def read_folder(folder: Path, remedy: str) -> dict[str, Tensor]:
    """All tensors in the folder, memory-mapped; `remedy` ends the message if there are none.

    Raises:
        InputError: no weights, an invalid index, or a shard or the file is missing or damaged.
    """
    path = weights_in(folder, remedy)
    if is_index(path):
        where = read_json(path, remedy).get("weight_map")
        if not isinstance(where, dict) or not where or not all(isinstance(shard, str) for shard in where.values()):
            raise InputError(f"{path}: has no weight_map of names. {remedy}")
    return read_model(path)


def weights_in(folder: Path, remedy: str) -> Path:
    """As `find_weights`, for a folder that must have some.

    Raises:
        InputError: it has none.
    """
    path = find_weights(folder)
    if path is None:
        shards = sorted(file.name for file in folder.iterdir() if _SHARD.fullmatch(file.name))
        lack = f"{shards[0]} is there without its index" if shards else f"has no weights, expected {USUAL}"
        raise InputError(f"{folder}: {lack}. {remedy}")
    return path
