"""Batch files: one film per line, `prompt@@image@@audio`, the format of the original's examples.

A batch file may come from someone else. So its paths must stay inside the file's own folder, after resolving links,
unless the command line allows other folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..film.output import identity

SEPARATOR = "@@"
SIZE_LIMIT = 4 << 20  # bytes: about 20,000 lines


@dataclass(frozen=True)
class Job:
    """One line of a batch file."""

    line: int
    prompt: str
    image: Path
    audio: Path


def read_batch(path: Path, inputs: Sequence[Path] = ()) -> list[Job]:
    """Reads the jobs of a batch file and skips empty lines.

    Paths are relative to the file's folder, and must lie in that folder or in one of `inputs`.

    Raises:
        InputError: no such file, too large, not text, no lines, a malformed line, or a path outside those folders.
    """
    folders = [folder.resolve() for folder in (path.parent, *inputs)]
    jobs = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        parts = [part.strip() for part in line.split(SEPARATOR)]
        if len(parts) != 3 or not all(parts):
            raise InputError(f"{place}: expected prompt@@image@@audio, found {line[:80]!r}")
        prompt, image, audio = parts
        jobs.append(Job(number, prompt, _inside(image, path, folders, place), _inside(audio, path, folders, place)))
    if not jobs:
        raise InputError(f"{path}: no lines of the form prompt@@image@@audio")
    return jobs


def check_jobs(path: Path, films: Mapping[Path, Job], claims: Sequence[Path]) -> None:
    """Checks that no output or claim file overwrites an input of any job, or the batch file itself.

    `animate` cannot check this: it knows only its own job's inputs.

    Raises:
        InputError: one of them does.
    """
    written = {identity(output): output for output in (*films, *claims)}
    inputs = [(path, f"{path}")]
    inputs += ((each, f"{path}, line {job.line}") for job in films.values() for each in (job.image, job.audio))
    for each, place in inputs:
        if (output := written.get(identity(each))) is not None:
            raise InputError(f"{place}: {each.name} is written by this batch itself ({output}). Choose another folder.")


def _lines(path: Path) -> list[str]:
    """The file's lines, numbered as editors number them, without the byte order mark that some of them write."""
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise InputError(f"{path}: larger than {SIZE_LIMIT >> 20} MB, the most that a batch file may have")
        return path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8") from error


def _inside(name: str, path: Path, folders: Sequence[Path], place: str) -> Path:
    """The path named on a line, after checking that it lies in one of the folders."""
    named = path.parent / name
    try:
        real = named.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # contains NUL, too long, or a link loop
        raise InputError(f"{place}: {name[:80]!r} is not a valid path ({error})") from error
    if not any(real.is_relative_to(folder) for folder in folders):
        raise InputError(
            f"{place}: {name[:80]!r} leads out of {folders[0]}. Move the file there, or name its folder: "
            f"--inputs {real.parent}"
        )
    return named
