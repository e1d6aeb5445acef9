"""Checks that a film's output path is writable and does not overwrite one of its inputs."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from ..errors import InputError


def check_output(path: str | PathLike) -> Path:
    """Returns the path if a film can be written there. Call it before any work is done.

    Raises:
        InputError: not an .mp4, a folder, or in a folder that is missing or cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise InputError(
            f"{path}: films are written as .mp4, found {path.suffix or 'no extension'}. Name it {path.stem}.mp4."
        )
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected the name of a film in it.")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}. Make it first, or choose another.")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise InputError(
            f"{path}: nothing can be written to {path.parent} ({error.strerror}). Choose another."
        ) from error
    return path


def check_apart(outputs: Iterable[Path], inputs: Iterable[Path], work: Path | None = None) -> None:
    """Checks that no input would be overwritten: none is an output under any name, and none is in the work folder.

    Raises:
        InputError: an input is an output or is in the work folder.
    """
    written = {identity(path): path for path in outputs}
    folder = None if work is None else Path(os.path.realpath(work))
    for path in inputs:
        if (output := written.get(identity(path))) is not None:
            named = "" if str(path) == str(output) else f" (as {path})"
            raise InputError(f"{output}: would overwrite its own input{named}. Choose another name for the output.")
        if folder is not None and "\0" not in str(path) and Path(os.path.realpath(path)).is_relative_to(folder):
            raise InputError(f"{path}: lies in the work folder {work}, which is cleared. Move it elsewhere.")


def identity(path: Path) -> tuple:
    """A key that is equal for two names of one file: symbolic and hard links, and other spellings on disks that treat
    them as the same.

    A file that does not exist yet is identified by its folder and its name, ignoring case and Unicode normalization.
    """
    try:
        real = Path(os.path.realpath(path))
        name = unicodedata.normalize("NFC", real.name).casefold()
        for there, rest in ((real, ()), (real.parent, (name,))):
            try:
                status = there.stat()
                return (status.st_dev, status.st_ino, *rest)
            except OSError:
                continue
        return (str(real),)
    except ValueError:  # a NUL in the name
        return (str(path),)
