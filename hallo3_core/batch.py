"""Batch files: a film a line, `prompt@@image@@audio`, the format of the original's examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .errors import InputError

SEPARATOR = "@@"


@dataclass(frozen=True)
class Job:
    """One line of a batch file."""

    line: int
    prompt: str
    image: Path
    audio: Path


def read_batch(path: Path) -> list[Job]:
    """The jobs of a batch file; empty lines are passed over, relative paths start at the file's folder.

    Raises:
        InputError: no such file, not text, no lines, or a line of another form.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8") from error
    jobs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split(SEPARATOR)]
        if len(parts) != 3 or not all(parts):
            raise InputError(f"{path}, line {number}: expected prompt@@image@@audio, found {line[:80]!r}")
        prompt, image, audio = parts
        jobs.append(Job(number, prompt, path.parent / image, path.parent / audio))
    if not jobs:
        raise InputError(f"{path}: no lines of the form prompt@@image@@audio")
    return jobs
