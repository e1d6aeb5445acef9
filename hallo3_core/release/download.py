"""Downloads the official release from the Hugging Face hub: only the files that are used, and only on request.

Sizes and licences are shown before the download. Downloaded files are checked against the hub's checksums.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..errors import InputError, require
from ..weights.disk import free_bytes, size_text
from .layout import TRANSFORMER_FOLDER
from .published import PARTS, REPOSITORY, TAG, Part

SPARE_BYTES = 256 << 20  # left free on the disk
READ_BYTES = 16 << 20

Progress = Callable[[int, int, str], None]  # bytes done, total bytes, the file being fetched

log = logging.getLogger(__name__)


class Hub(Protocol):
    """The two functions of huggingface_hub that are used."""

    def model_info(self, repo_id: str, *, files_metadata: bool): ...

    def hf_hub_download(self, repo_id: str, filename: str, *, revision: str, local_dir: str) -> str: ...


@dataclass(frozen=True)
class _Wanted:
    """A file on the hub; sha256 is None for small files, for which the hub stores none."""

    name: str
    bytes: int
    sha256: str | None


def plan(names: Sequence[str] | None = None) -> tuple[Part, ...]:
    """The parts with these names, or all parts if there are no names.

    Raises:
        InputError: an unknown name.
    """
    known = {part.name: part for part in PARTS}
    for name in names or ():
        if name not in known:
            raise InputError(f"part {name!r}: expected some of {', '.join(known)}")
    return tuple(part for part in PARTS if not names or part.name in names)


def plan_text(names: Sequence[str] | None = None, folder: Path | str | None = None) -> str:
    """A table of what would be downloaded, for the user to read first: sizes, licences, and free space in `folder`.
    Works offline."""
    parts = plan(names)
    lines = [f"{'part':<13} {'about':>9}  what for; licence"]
    lines += [f"{p.name:<13} {size_text(p.bytes):>9}  {p.purpose}; {p.licence}" for p in parts]
    lines.append(f"{'together':<13} {size_text(sum(p.bytes for p in parts)):>9}  from huggingface.co/{REPOSITORY}")
    if folder is not None and (room := free_bytes(Path(folder))) is not None:
        lines.append(f"{'free':<13} {size_text(room):>9}  in {folder}")
    return "\n".join(lines)


def download(
    folder: Path | str,
    names: Sequence[str] | None = None,
    *,
    progress: Progress | None = None,
    hub: Hub | None = None,
    free: Callable[[Path], int | None] = free_bytes,
) -> list[Path]:
    """Downloads parts of the release into `folder`, in the release's layout, and returns the files.

    Complete files are kept, and partial downloads resume.

    Raises:
        InputError: huggingface_hub is not installed, no network, the disk is too full, the release on the hub lacks a
            file, or a file does not match the hub's checksum.
    """
    parts, folder = plan(names), Path(folder)
    hub = hub or require("huggingface_hub", "huggingface_hub", "downloading the release")
    revision, wanted = _wanted(hub, parts)
    lacking = sum(file.bytes for file in wanted if not _has(folder, file))
    room = free(folder)
    if lacking and room is not None and room < lacking + SPARE_BYTES:
        raise InputError(f"{folder}: {size_text(lacking)} to fetch, {size_text(room)} free. Choose another folder.")
    total, done, found = sum(file.bytes for file in wanted), 0, []
    for file in wanted:
        if progress:
            progress(done, total, file.name)
        found.append(_fetch(hub, revision, folder, file))
        done += file.bytes
    if progress:
        progress(done, total, "")
    latest = folder / TRANSFORMER_FOLDER / "latest"
    if latest.parent.is_dir() and not latest.exists():
        latest.write_text(TAG)
    return found


def _wanted(hub: Hub, parts: Sequence[Part]) -> tuple[str, list[_Wanted]]:
    """The release's current revision, and the files of `parts` in it."""
    try:
        release = hub.model_info(REPOSITORY, files_metadata=True)
    except Exception as error:  # of many types: from the network, the HTTP library, or the hub's client
        raise InputError(_unreachable(error)) from error
    files = {file.rfilename: file for file in release.siblings}
    missing = [name for part in parts for name in part.needed if name not in files]
    if missing:
        raise InputError(f"{REPOSITORY} has no {', '.join(missing)}: the release has changed; see docs/files.md")
    names = sorted(name for name in files if any(part.takes(name) for part in parts))
    return release.sha, [
        _Wanted(name, files[name].size or 0, files[name].lfs.sha256 if files[name].lfs else None) for name in names
    ]


def _fetch(hub: Hub, revision: str, folder: Path, file: _Wanted) -> Path:
    path = folder / file.name
    if _has(folder, file):
        log.info("%s: there already", path)
    else:
        try:
            hub.hf_hub_download(REPOSITORY, file.name, revision=revision, local_dir=str(folder))
        except Exception as error:  # as above
            raise InputError(_unreachable(error) + " What was downloaded so far is kept.") from error
        if not path.is_file() or path.stat().st_size != file.bytes:
            size = path.stat().st_size if path.is_file() else 0
            raise InputError(f"{path}: {size} bytes, the hub has {file.bytes}. Delete it and download again.")
    if file.sha256 and _sha256(path) != file.sha256:
        raise InputError(f"{path}: damaged, its checksum is not the hub's. Delete it and download again.")
    return path


def _has(folder: Path, file: _Wanted) -> bool:
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.bytes


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while block := opened.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _unreachable(error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"cannot reach huggingface.co ({reason}). Check the network, then run the same command again."
