"""What lies in the model files of the host's folders: read from their headers, once for each state of a file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from ...hallo3_core.errors import InputError
from ...hallo3_core.release.detect import identify_file
from ...hallo3_core.release.layout import VAE_FILE, Release
from ...hallo3_core.weights.kinds import FACE_DETECTOR, FACE_RECOGNISER, Found, Kind

INDEX = "*.index.json"
WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
FACES = frozenset((FACE_DETECTOR, FACE_RECOGNISER))
REMEMBERED = 10_000  # files
UNSURE = (Kind.UNKNOWN, Kind.BROKEN)


def holds(path: Path, part: str) -> bool:
    """Whether a file, or one of a folder's, is known to hold a part, by the names in `weights.kinds.LABELS`."""
    return any(part in found.parts for found in _contents(path))


def cannot_hold(path: Path, part: str) -> bool:
    """Whether all of it is known to be something else. What cannot be told may fit: its loader will say."""
    found = list(_contents(path))
    return bool(found) and not any(part in each.parts or each.kind in UNSURE for each in found)


def _contents(path: Path) -> Iterator[Found]:
    for file in _files(path):
        try:
            state = file.stat()
        except OSError:
            continue
        yield _identified(str(file), state.st_size, state.st_mtime_ns)


def _files(path: Path) -> list[Path]:
    """Of a release its transformers' files and VAE; of other folders the shards' index, weights or ONNX files."""
    if not path.is_dir():
        return [path]
    try:
        release = Release(path)
        vae = release.folder / VAE_FILE
        return [*release.engine_files, *([vae] if vae.exists() else [])]
    except InputError:
        pass
    indices = sorted(path.glob(INDEX))
    weights = [file for pattern in WEIGHTS for file in sorted(path.glob(pattern))]
    return indices or weights or sorted(path.rglob("*.onnx"))


@lru_cache(REMEMBERED)
def _identified(path: str, size: int, changed: int) -> Found:
    """By path and state: a file that is written again is read again."""
    try:
        return identify_file(path).found
    except (InputError, OSError, ValueError) as error:
        return Found(Kind.BROKEN, str(error))
