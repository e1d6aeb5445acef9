"""Runs long work in stages and caches each: a stage with a complete result from the same recipe is not repeated."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORD = "stage.json"

Measured = Mapping[str, Any]


@dataclass
class Stages:
    """The stages in a folder, in call order; each has its own subfolder.

    A stage's recipe covers its arguments and the recipes of all earlier stages, so a change invalidates every later
    stage.
    """

    folder: Path
    on_line: Callable[[str], None]
    records: dict[str, dict] = field(default_factory=dict)

    def __call__(self, name: str, recipe: Mapping[str, Any], make: Callable[[Path], Measured | None]) -> Path:
        """Returns the stage's folder, made by `make(folder)` unless it is already complete with this recipe.

        `make` may find files of an interrupted run with the same recipe and resume from them; files of another recipe
        are removed first. Its return value is stored in the record.
        """
        place = self.folder / name
        digest = _digest(recipe, [record["digest"] for record in self.records.values()])
        found = _read(place / RECORD)
        if found.get("digest") == digest and found.get("whole"):
            self.records[name] = found
            self.on_line(f"{name}: there already")
            return place
        if place.exists() and found.get("digest") != digest:
            shutil.rmtree(place)
        place.mkdir(parents=True, exist_ok=True)
        record = {"digest": digest, "recipe": dict(recipe), "whole": False}
        _write(place / RECORD, record)
        self.on_line(f"{name} ...")
        began = time.monotonic()
        measured = dict(make(place) or {})
        record |= {"whole": True, "seconds": round(time.monotonic() - began, 1), "measured": measured}
        _write(place / RECORD, record)
        self.records[name] = record
        return place


def _digest(recipe: Mapping[str, Any], before: list[str]) -> str:
    return hashlib.sha256(json.dumps([recipe, before], sort_keys=True, default=str).encode()).hexdigest()[:16]


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, record: dict) -> None:
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
    unfinished.replace(path)
