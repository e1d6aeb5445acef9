"""Merges LoRAs into weights while they are written: like `apply_lora`, but a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import InputError
from ...film.fingerprint import file_digest
from ...model.config import TransformerConfig
from ...weights import names
from .file import LoraFile
from .matching import LoraPatches
from .patch import Patch, by_column, change_of


class Merge(NamedTuple):
    """A LoRA file and its strength."""

    path: Path
    strength: float


@dataclass(frozen=True)
class Changes:
    """Changes to a network: patches with their strengths, by our name of the weight or bias."""

    weights: dict[str, list[tuple[Patch, float]]] = field(default_factory=dict)
    biases: dict[str, list[tuple[Patch, float]]] = field(default_factory=dict)

    def add(self, lora: LoraPatches, strength: float) -> None:
        for patch in lora.patches:
            self.weights.setdefault(patch.target.name, []).append((patch, strength))
            if patch.bias is not None:
                name = patch.target.name.removesuffix("weight") + "bias"
                self.biases.setdefault(name, []).append((patch, strength))

    def touches(self, name: str) -> bool:
        return name in self.weights or name in self.biases

    def needs_whole(self, name: str) -> bool:
        """Whether a weight can only be changed as a whole, because a DoRA patch has column norms."""
        patches = [patch for patch, _ in self.weights.get(name, ()) if patch.magnitude is not None]
        return any(by_column(patch.magnitude, patch.target.rows) for patch in patches)

    def apply(self, name: str, rows: Tensor, begin: int) -> Tensor:
        """A float32 copy of rows ``n ...`` of a tensor, starting at row `begin`, with the changes added."""
        values = rows.to(torch.float32, copy=True)
        for patch, strength in self.weights.get(name, ()):
            if part := _overlap(patch, begin, len(values)):
                mine, own = part
                flat = values.flatten(1)[mine]
                flat.add_(change_of(flat, _rows_of(patch, own)), alpha=strength)
        for patch, strength in self.biases.get(name, ()):
            if part := _overlap(patch, begin, len(values)):
                mine, own = part
                values[mine] += strength * patch.bias[own]
        return values


def changes_of(
    loras: Sequence[tuple[LoraFile, float]], part: str, tensors: Mapping[str, Tensor], config: TransformerConfig
) -> Changes:
    """The files' changes, each at its strength, to a network with these tensors; `config` is the denoiser's.

    Raises:
        InputError: a file that is not a LoRA for this model, or a strength that is NaN or infinite.
    """
    changes, shapes = Changes(), {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for file, strength in loras:
        if not math.isfinite(strength):
            raise InputError(f"{file.path}: strength {strength}, expected a number such as 1")
        if part == names.DENOISER:
            file.warn_of_other_base(tensors)
            changes.add(file.of_denoiser(config), strength)
        else:
            changes.add(file.of_part(part, shapes), strength)
    return changes


def merge_text(merges: Sequence[Merge]) -> str:
    """The merged LoRAs (name, strength, digest), for a file's metadata."""
    return ", ".join(f"{path.name}:{strength:g} {file_digest(path)[:16]}" for path, strength in merges)


def _overlap(patch: Patch, begin: int, count: int) -> tuple[slice, slice] | None:
    """The rows that a patch changes among `count` rows from `begin`: counted from `begin`, and as the patch's own rows;
    None if there are none."""
    start, stop = max(begin, patch.target.start), min(begin + count, patch.target.start + patch.target.rows)
    if start >= stop:
        return None
    return slice(start - begin, stop - begin), slice(start - patch.target.start, stop - patch.target.start)


def _rows_of(patch: Patch, rows: slice) -> Patch:
    """The patch restricted to some of its rows."""
    magnitude = patch.magnitude
    if magnitude is not None and not by_column(magnitude, patch.target.rows):
        magnitude = magnitude[rows]
    return patch._replace(up=patch.up[rows], magnitude=magnitude)
