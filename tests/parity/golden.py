"""The recordings: where they are, how a value is compared, and the table that is printed at the end.

`HALLO3_GOLDEN_DIR` names the folder; the small copy under `tests/data/golden` is the default. Nothing here knows a
size: all come from the folder's `config.json` and the tensors' own shapes.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

TOLERANCE = 2e-5
DIRECTORY = Path(os.environ.get("HALLO3_GOLDEN_DIR") or Path(__file__).parents[1] / "data" / "golden")


class Recording:
    """One safetensors file of the set, read tensor by tensor; remembers which tensors a test has asked for."""

    def __init__(self, name: str, directory: Path = DIRECTORY):
        self.name = name
        self._file = safe_open(str(directory / f"{name}.safetensors"), "pt")
        self.keys = set(self._file.keys())
        self.metadata = self._file.metadata() or {}
        self.used: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.used.add(key)
        return self._file.get_tensor(key)

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    def weights(self) -> dict[str, Tensor]:
        """All tensors, in float32 (they are stored as bfloat16, which holds them exactly)."""
        return {key: self[key].float() for key in sorted(self.keys)}

    def forms(self, key: str) -> list[tuple[str, int]]:
        """The names under which tensor `key` is recorded, and which share of its values: every 1st, 4th, ..."""
        pattern = re.compile(re.escape(key) + r"(?:\.every(\d+)[a-z]{2})?")
        return [(name, int(m.group(1) or 1)) for name in sorted(self.keys) if (m := pattern.fullmatch(name))]

    def numbers(self, pattern: str) -> list[int]:
        """The numbers that stand at `#` in keys of the form `pattern`, in order: clip#.audio -> [0, 1, 2]."""
        regex = re.compile(re.escape(pattern).replace(r"\#", "#").replace("#", r"(\d+)") + r"(?:\.every\d+[a-z]{2})?")
        return sorted({int(m.group(1)) for m in map(regex.fullmatch, self.keys) if m})


class Table:
    """Every comparison of the run: tensor, largest error, tolerance."""

    def __init__(self):
        self.rows: list[tuple[str, float, float]] = []

    def meets(self, recording: Recording, key: str, found: Tensor, tolerance: float = TOLERANCE) -> None:
        """`found` equals the recorded tensor `key` within `tolerance`, absolute or relative to its largest value.

        A tensor recorded as `key.every4th` holds every 4th pixel in both directions; a set that lacks the tensor in
        either form has nothing to say about it.
        """
        for name, every in recording.forms(key):
            view = found[..., ::every, ::every] if every > 1 else found
            self._compare(f"{recording.name}/{name}", recording[name], view, tolerance)

    def meets_relative(self, recording: Recording, key: str, found: Tensor, tolerance: float = TOLERANCE) -> None:
        """As `meets`, relative to the tensor's largest value however small it is: gradients are."""
        for name, every in recording.forms(key):
            view = found[..., ::every] if every > 1 else found
            self._compare(f"{recording.name}/{name}", recording[name], view, tolerance, floor=0.0)

    def _compare(self, name: str, expected: Tensor, found: Tensor, tolerance: float, floor: float = 1.0) -> None:
        assert tuple(found.shape) == tuple(expected.shape), (
            f"{name}: shape {list(found.shape)}, recorded {list(expected.shape)}"
        )
        expected, found = expected.double(), found.detach().double()
        assert torch.isfinite(found).all(), f"{name}: not finite"
        largest = expected.abs().max().item() if expected.numel() else 0.0
        error = (found - expected).abs().max().item() if expected.numel() else 0.0
        error /= max(floor, largest) or 1.0
        self.rows.append((name, error, tolerance))
        assert error <= tolerance, f"{name}: off by {error:.2e}, allowed {tolerance:.0e}"

    def exactly(self, recording: Recording, key: str, found: object) -> None:
        """An integer fact, or a tensor of integers, is met exactly."""
        expected = recording[key]
        found = torch.as_tensor(found)
        wrong = (found.reshape(expected.shape).to(expected.dtype) != expected).sum().item()
        self.rows.append((f"{recording.name}/{key}", float(wrong), 0.0))
        assert not wrong, f"{recording.name}/{key}: {wrong} of {expected.numel()} values differ"

    def text(self) -> str:
        """The table, a line per tensor family (numbers in names become #), with the largest error of each."""
        families: dict[str, tuple[float, float, int]] = {}
        for name, error, tolerance in self.rows:
            family = re.sub(r"\d+", "#", name)
            worst, _, count = families.get(family, (0.0, tolerance, 0))
            families[family] = (max(worst, error), tolerance, count + 1)
        width = max(map(len, families), default=0)
        lines = [f"{'tensor':<{width}}  count  largest error  tolerance"]
        lines += [f"{n:<{width}}  {c:5d}  {e:13.1e}  {t:9.0e}" for n, (e, t, c) in sorted(families.items())]
        return "\n".join(lines)


def manifest() -> dict | None:
    """The full-size list of tensors, if the set has it (plain or packed)."""
    path = DIRECTORY / "full_size_manifest.json"
    if path.exists():
        return json.loads(path.read_text())
    packed = path.with_name(path.name + ".gz")
    return json.loads(gzip.decompress(packed.read_bytes())) if packed.exists() else None


def config() -> dict:
    """The set's `config.json`."""
    return json.loads((DIRECTORY / "config.json").read_text())
