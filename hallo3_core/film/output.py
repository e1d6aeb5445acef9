"""Where a film may be written: a name that can be written to, and that is none of the film's own inputs."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from ..errors import InputError


def check_output(path: str | PathLike) -> Path:
    """The path of a film that can be written there; to be asked before any work is done.

    Raises:
        InputError: not an .mp4, a folder, or in a folder that is missing or cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise InputError(
            f"{path}: films are written as .mp4, found {path.suffix or 'no ending'}. Name it {path.stem}.mp4."
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
    """Inputs stay as they are: none is an output, under whatever name, and none lies in the work folder.

    Raises:
        InputError: one does.
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
    """Equal for two names of one file: links of both kinds, other spellings on disks that take them for the same.

    A file that is not there yet is known by its folder and its name, capitals and accents' spelling aside.
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
    except ValueError:  # NUL in it
        return (str(path),)
