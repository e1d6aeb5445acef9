"""Fingerprints of a film's inputs: a short string per input, to detect whether two runs make the same film.

Pictures, sound and prompts are identified by their content. Weight files are too large to read twice, so they are
identified by size, modification time and both ends: a safetensors file begins with the names and shapes of its tensors,
and a PyTorch file ends with the checksums of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__

SAME_FILM = {"same_film": True}  # metadata of fields that affect how a film is computed, not its content
END = 65_536  # bytes read at each end of a large file
ABOUT = "about "  # prefix of a computed input's fingerprint
SAMPLES, LEAST_SAMPLES = 256, 4  # per computed input, and the minimum per tensor
ROUNDING = 0.02
MODEL_FILE = "model file "  # prefix of the names of weights' files
READABLE = 80  # longer values are not shown in messages
OTHER_FILES = (
    "Weights are compared by file: those that were converted, merged or downloaded again count as different. To "
    "continue with the kept clips, choose the files used before"
)
_PACKAGES = ("torch", "diffusers", "transformers", "insightface", "onnxruntime")

Inputs = dict[str, str]


def versions() -> Inputs:
    """Versions of this program and of the packages that affect the result."""
    found = {"version of hallo3": __version__}
    for package in _PACKAGES:
        try:
            found[f"version of {package}"] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Describes what changed; empty if nothing did. Weights are compared by file, so a hint follows where these
    changed: the same weights in another form are others."""
    found, hint = [], ""
    for name in [*now, *(name for name in before if name not in now)]:
        old, new = before.get(name), now.get(name)
        if old == new or _alike(old, new):
            continue
        if name.startswith(MODEL_FILE):
            hint = f". {OTHER_FILES}"
        if old is None or new is None:
            found.append(f"{name} is {'new' if old is None else 'gone'}")
        elif max(len(old), len(new)) > READABLE or not _is_readable(old):
            found.append(f"{name} changed")
        else:
            found.append(f"{name} was {old}, is {new}")
    return "; ".join(found) + hint


def flat(values: Any) -> Inputs:
    """Describes the fields of a dataclass, with nested dataclasses flattened and `SAME_FILM` fields left out."""
    found = {}
    for each in fields(values):
        value = getattr(values, each.name)
        if not each.metadata.get("same_film"):
            found |= flat(value) if is_dataclass(value) else {each.name.replace("_", " "): describe(value)}
    return found


def describe(value: Any) -> str:
    """A short string that is equal for equal values: tensors by hash, files by `file_identity`, the rest by `repr`."""
    if isinstance(value, Tensor):
        return digest(value)
    if isinstance(value, Path):
        return file_identity(value)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return f"({', '.join(describe(each) for each in value)})"
    return repr(value)


def digest(*values: Tensor | object) -> str:
    """SHA-256 of tensors (dtype, shape and bytes) and of the `repr` of other values."""
    total = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            total.update(f"{value.dtype} {list(value.shape)} ".encode())
            total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        else:
            total.update(f"{value!r} ".encode())
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a whole file.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_identity(path: Path) -> str:
    """Size, modification time and hash of both ends of a file, which is never read in full; "missing" if unreadable."""
    try:
        with open(path, "rb") as file:
            status = path.stat()
            total = hashlib.sha256(file.read(END))
            file.seek(max(END, status.st_size - END))
            total.update(file.read(END))
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns} {total.hexdigest()}"


def about(*tensors: Tensor) -> str:
    """Fingerprint of computed tensors: sampled values, because a GPU does not always give the same bits twice.
    `differences` treats two of them as equal if they differ by at most `ROUNDING`, relative to their norm."""
    each = max(LEAST_SAMPLES, SAMPLES // len(tensors))
    shapes = [list(tensor.shape) for tensor in tensors]
    values = [value for tensor in tensors for value in spread(tensor, each).tolist()]
    return f"{ABOUT}{shapes[0]} x {len(shapes)}: {' '.join(f'{value:.4g}' for value in values)}"


def spread(tensor: Tensor, count: int) -> Tensor:
    """At most `count` evenly spaced values of a tensor, float32 on the CPU."""
    flat = tensor.detach().flatten()
    places = torch.linspace(0, len(flat) - 1, min(count, len(flat)), dtype=torch.float64).long()
    return flat[places.to(flat.device)].float().cpu()


def _alike(old: str | None, new: str | None) -> bool:
    if not (old and new and old.startswith(ABOUT) and new.startswith(ABOUT)):
        return False
    (old_shape, old_values), (new_shape, new_values) = (text.split(":") for text in (old, new))
    if old_shape != new_shape:
        return False
    a, b = (torch.tensor([float(value) for value in values.split()]) for values in (old_values, new_values))
    return bool((a - b).norm() <= ROUNDING * b.norm())


def _is_readable(text: str) -> bool:
    return not text.startswith(ABOUT) and all(len(word) < 64 for word in text.split())
