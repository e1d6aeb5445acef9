"""Contents of the model files in the host's folders, identified from their headers and cached until a file changes."""

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
    """Whether a file, or a file in a folder, is known to hold a part; parts are named in `weights.kinds.LABELS`."""
    return any(part in found.parts for found in _contents(path))


def cannot_hold(path: Path, part: str) -> bool:
    """Whether the whole content is known to be something else. Unidentified files may fit; their loader checks them."""
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
    """Files to identify: a release's transformers and VAE; of other folders, the shards' index, weights or ONNX
    files."""
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
    """Identifies a file. Size and modification time are part of the cache key, so a changed file is read again."""
    try:
        return identify_file(path).found
    except (InputError, OSError, ValueError) as error:
        return Found(Kind.BROKEN, str(error))
