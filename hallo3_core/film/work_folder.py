"""The folder for an unfinished film: locked while a run uses it, and cleaned up afterwards."""

from __future__ import annotations

import contextlib
from enum import Enum
from pathlib import Path

from ..clips import MOTION_FRAMES, NEW_FRAMES_PER_CLIP
from ..errors import InputError
from ..weights.disk import free_bytes
from .locking import try_lock

LOCK, MANIFEST = "lock", "manifest.json"
PART = ".part"  # in the name of every incomplete file
CLIP_FILES = "clip_*"
LOSSLESS_SHARE = 0.6  # relative to the raw frames; measured: 0.43 on a moving photograph with noise


class Keeping(Enum):
    """How long finished clips stay on disk."""

    UNTIL_WHOLE = "until the video is whole"
    ALWAYS = "always"
    NEVER = "never"


class WorkFolder:
    """A folder for one run at a time.

        with WorkFolder(path, "film.mp4") as work:
            ...
            work.clear(take)

    It holds a folder for each take of the film. Incomplete files of a killed run are removed at the start. The folder
    is removed at the end, unless it holds clips or other files. Files that this program did not write are never
    touched.

    Raises:
        InputError: another run uses the folder, or it cannot be created. Messages name `film`.
    """

    def __init__(self, path: Path, film: str):
        self.path, self.film = path, film

    def __enter__(self) -> WorkFolder:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)  # other users see only the finished film
            self._lock = try_lock(self.path / LOCK)
        except OSError as error:
            raise InputError(
                f"{self.film}: its work folder {self.path} cannot be made ({error.strerror}). Make "
                f"{self.path.parent} writable, or choose another place."
            ) from error
        if self._lock is None:
            raise InputError(
                f"{self.film}: another run is making it ({self.path} is in use). Wait for it, or stop it first."
            )
        for folder in self._folders():
            _remove(folder.glob(f"*{PART}*"))
        return self

    def __exit__(self, *error) -> None:
        for folder in self._folders():
            if not any(folder.glob(CLIP_FILES)):
                _remove([folder / MANIFEST])
                if folder != self.path:
                    _remove_if_empty(folder)
        self._lock.release()
        _remove_if_empty(self.path)

    def clear(self, folder: Path) -> None:
        """Removes the clips, the manifest and incomplete files of one take, and what is incomplete in the work
        folder."""
        for pattern in (MANIFEST, CLIP_FILES, f"*{PART}*"):  # the manifest first, because clips do not count without it
            _remove(folder.glob(pattern))
        _remove(self.path.glob(f"*{PART}*"))

    def _folders(self) -> list[Path]:
        """The work folder and those of its takes."""
        return [self.path, *(path for path in self.path.iterdir() if path.is_dir())] if self.path.is_dir() else []

    def check_room(self, clips: int, height: int, width: int, way_out: str) -> int:
        """Approximate bytes on disk for this many clips of this size.

        Raises:
            InputError: less is free; `way_out` says what else the user can do.
        """
        need, free = clips * clip_bytes(height, width), free_bytes(self.path)
        if free is not None and free < need:
            raise InputError(
                f"{self.film}: keeping {clips} clips until it is whole takes about {gigabytes(need)} in "
                f"{self.path.parent}, {gigabytes(free)} are free. Make room, or {way_out}."
            )
        return need


def clip_bytes(height: int, width: int) -> int:
    """Approximate bytes of a clip on disk: lossless frames, motion frames in float32."""
    return round(3 * height * width * (NEW_FRAMES_PER_CLIP * LOSSLESS_SHARE + MOTION_FRAMES * 4))


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{-(-size // 1_000_000)} MB"


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not empty
        folder.rmdir()


def _remove(paths) -> None:
    for path in list(paths):
        path.unlink(missing_ok=True)
