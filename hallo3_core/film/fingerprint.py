"""What a film is made of, by name and in few letters each, so that two runs can be compared and told apart.

Pictures, sounds and sentences count by their content. Weights, which are too large to be read twice, count by their
files' sizes, times of change and both ends: a safetensors file begins with the names and shapes of its tensors, a
PyTorch file ends with the checksums of its own.
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

SAME_FILM = {"same_film": True}  # metadata of a field that says how a film is computed, not which film
END = 65_536  # bytes of a large file's beginning and end that are looked at
ABOUT = "about "  # how the samples of a computed input begin
SAMPLES, LEAST_SAMPLES = 256, 4  # of a computed input, of each tensor in it
ROUNDING = 0.02
READABLE = 80  # a value of more letters is hashed
_PACKAGES = ("torch", "diffusers", "transformers", "insightface", "onnxruntime")

Inputs = dict[str, str]


def versions() -> Inputs:
    """Of this program and of the packages that compute."""
    found = {"version of hallo3": __version__}
    for package in _PACKAGES:
        try:
            found[f"version of {package}"] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What changed, in words; empty when nothing did."""
    found = []
    for name in [*now, *(name for name in before if name not in now)]:
        old, new = before.get(name), now.get(name)
        if old == new or _alike(old, new):
            continue
        if old is None or new is None:
            found.append(f"{name} is {'new' if old is None else 'gone'}")
        elif max(len(old), len(new)) > READABLE or not _is_readable(old):
            found.append(f"{name} changed")
        else:
            found.append(f"{name} was {old}, is {new}")
    return "; ".join(found)


def flat(values: Any) -> Inputs:
    """The fields of a dataclass, those of dataclasses in it beside them, but for fields of `SAME_FILM`."""
    found = {}
    for each in fields(values):
        value = getattr(values, each.name)
        if not each.metadata.get("same_film"):
            found |= flat(value) if is_dataclass(value) else {each.name.replace("_", " "): describe(value)}
    return found


def describe(value: Any) -> str:
    """A value in few letters, equal for equal values: files and tensors by content, the rest by its own words."""
    if isinstance(value, Tensor):
        return digest(value)
    if isinstance(value, Path):
        return file_identity(value)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return f"({', '.join(describe(each) for each in value)})"
    return repr(value)


def digest(*values: Tensor | object) -> str:
    """SHA-256 of tensors (their dtype, shape and bytes) and of other values' words."""
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
    """Size, time of change and both ends of a file, which is never read whole; of no file: that it is missing."""
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
    """Values spread over tensors: for what a network computed, where a GPU need not give the same bits twice.
    `differences` takes two of them for equal where they differ by less than `ROUNDING` of their size."""
    each = max(LEAST_SAMPLES, SAMPLES // len(tensors))
    shapes = [list(tensor.shape) for tensor in tensors]
    values = [value for tensor in tensors for value in spread(tensor, each).tolist()]
    return f"{ABOUT}{shapes[0]} x {len(shapes)}: {' '.join(f'{value:.4g}' for value in values)}"


def spread(tensor: Tensor, count: int) -> Tensor:
    """At most `count` values, evenly spread over a tensor, float32 on the CPU."""
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
