"""Checks that a film's output path is writable, has room, and does not overwrite one of its inputs."""

from __future__ import annotations

import os
import stat
import tempfile
import unicodedata
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from ..errors import InputError
from ..weights.disk import free_bytes
from .work_folder import gigabytes

PICTURE_SHARE = 0.02  # bytes per pixel; measured on nine talking videos: 0.006 to 0.017
SOUND_BYTES = 960  # per frame: 192 kbit a second
_WRITABLE = 0o222


def check_output(path: str | PathLike) -> Path:
    """Returns the path if a film can be written there. Call it before any work is done.

    Raises:
        InputError: not an .mp4, a folder, a pipe or device, a file that is write-protected, a link that leads nowhere,
            or in a folder that is missing or cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise InputError(
            f"{path}: videos are written as .mp4, found {path.suffix or 'no extension'}. Name it {path.stem}.mp4."
        )
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected the name of a video in it.")
    target = target_of(path)
    through = "" if target == path else f" (a link to {target})"
    if target.is_symlink():
        raise InputError(f"{path}: is a link that leads back to itself. Remove it, or choose another name.")
    if not target.parent.is_dir():
        raise InputError(f"{path}{through}: there is no folder {target.parent}. Make it first, or choose another.")
    if target.exists():
        mode = target.stat().st_mode
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}{through}: is a pipe or device, expected a file. Choose another name.")
        if not (mode & _WRITABLE and os.access(target, os.W_OK)):  # root may write any file
            raise InputError(f"{path}{through}: is write-protected. Make it writable, or choose another name.")
    try:
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:
        raise InputError(
            f"{path}: nothing can be written to {target.parent} ({error.strerror}). Choose another."
        ) from error
    return path


def target_of(path: Path) -> Path:
    """The file that is written under a path: what it leads to if it is a link, so that the link stays."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def check_room(name: str, folder: Path, frames: int, height: int, width: int, way_out: str) -> None:
    """Checks that a film of so many frames has room in a folder. `name` and `way_out` are for the message.

    Raises:
        InputError: less is free than it probably takes.
    """
    need, free = film_bytes(frames, height, width), free_bytes(folder)
    if free is not None and free < need:
        raise InputError(
            f"{name}: the video takes about {gigabytes(need)} in {folder}, {gigabytes(free)} are free. Make room, or "
            f"{way_out}."
        )


def film_bytes(frames: int, height: int, width: int) -> int:
    """Approximate bytes of a film: H.264 and stereo AAC."""
    return round(frames * (height * width * PICTURE_SHARE + SOUND_BYTES))


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
