"""Contents of the model files in the host's folders, identified from their headers and cached until a file changes.

Nothing here fails: an unreadable file is one whose contents are not known.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

from ...hallo3_core.errors import InputError
from ...hallo3_core.release.detect import identify_file
from ...hallo3_core.release.layout import VAE_FILE, Release
from ...hallo3_core.release.lora.alphas import BESIDE
from ...hallo3_core.weights import names
from ...hallo3_core.weights.kinds import FACE_DETECTOR, LORA, TRANSFORMER_PARTS, WAV2VEC, Found, Kind
from ...hallo3_core.weights.model_folder import weights_among
from ...hallo3_core.weights.parts import TEXT, VAE
from ...hallo3_core.weights.shards import files_of, is_index, model_file
from .checkpoint import PROJECTORS_FILE
from .listing import children, files_below

WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
REMEMBERED = 10_000  # files
UNSURE = (Kind.UNKNOWN, Kind.BROKEN)
BESIDE_FILES = {
    names.DENOISER: (PROJECTORS_FILE,),
    WAV2VEC: ("config.json", "preprocessor_config.json"),
    LORA: (BESIDE,),
}  # what a loader of one file also reads from its folder, by part
# Bytes below which a part is a toy's: far less than the released networks take in any precision.
TOY_BYTES = {
    names.DENOISER: 1_000_000_000,
    names.REFERENCE_NET: 1_000_000_000,
    VAE: 100_000_000,
    TEXT: 500_000_000,
    WAV2VEC: 50_000_000,
    FACE_DETECTOR: 5_000_000,  # with the recogniser
}


def holds(path: Path, part: str) -> bool:
    """Whether a file, or a file in a folder, is known to hold a part; parts are named in `weights.kinds.LABELS`."""
    return any(part in found.parts for found in _contents(path))


def cannot_hold(path: Path, part: str) -> bool:
    """Whether the whole content is known to be something else. Unidentified files may fit; their loader checks them."""
    found = list(_contents(path))
    if not found:
        return os.path.isdir(path)
    return not any(part in each.parts or each.kind in UNSURE for each in found)


def is_small(path: Path, part: str) -> bool:
    """Whether a part has the size of a toy's, by its files alone."""
    return sum(size for _, size, _ in _states(_read_for(path, part))) < TOY_BYTES.get(part, 0)


def fingerprint(path: Path, part: str) -> str:
    """A text that changes when a file changes that the part is read from: by path, size and time of change."""
    states = [str(path), *_states(_read_for(path, part))]
    return hashlib.sha256(repr(states).encode()).hexdigest()


def unreadable(path: Path, part: str) -> OSError | None:
    """Why a file that the part is read from cannot be read, if that is so."""
    for file in _read_for(path, part):
        try:
            with open(file, "rb") as opened:
                opened.read(1)
        except OSError as error:
            return error
    return None


def _read_for(path: Path, part: str) -> list[Path]:
    """Files that a part is read from."""
    if not os.path.isdir(path):
        beside = [path.with_name(name) for name in BESIDE_FILES.get(part, ())]
        return [*_shards(path), *(file for file in beside if os.path.isfile(file))]
    vae, transformers = path / VAE_FILE, _transformers(path)
    if part == VAE and os.path.isfile(vae):
        return [vae]
    if part in (*TRANSFORMER_PARTS, VAE) and transformers:
        return [file for each in transformers for file in _shards(each)]
    return list(files_below(path))


def _contents(path: Path) -> Iterator[Found]:
    for file, size, changed in _states(_files(path)):
        yield _identified(file, size, changed)


def _states(files: Sequence[Path]) -> Iterator[tuple[str, int, int]]:
    """Path, size and time of change of the files that are there."""
    for file in files:
        try:
            state = os.stat(file)
        except (OSError, ValueError):
            continue
        yield str(file), state.st_size, state.st_mtime_ns


def _files(path: Path) -> list[Path]:
    """Files to identify: a release's transformers and VAE; of other folders, the shards' index, weights or ONNX
    files."""
    if not os.path.isdir(path):
        return [path]
    vae = path / VAE_FILE
    if release := [*_transformers(path), *([vae] if os.path.isfile(vae) else [])]:
        return release
    inside = children(path)[1]
    if (own := weights_among(inside)) is not None:
        return [own]
    indices = [file for file in inside if is_index(file)]
    weights = [file for pattern in WEIGHTS for file in inside if fnmatchcase(file.name, pattern)]
    return indices or weights or [file for file in files_below(path) if file.suffix == ".onnx"]


def _transformers(folder: Path) -> list[Path]:
    """The files of a release's transformers, none if it has none that can be found."""
    try:
        return Release(folder).transformer_files
    except (InputError, OSError, ValueError):
        return []


def _shards(path: Path) -> list[Path]:
    """The files of a model that has a file at `path`, which need not be there."""
    try:
        index = model_file(path)
        return list(dict.fromkeys((path, index, *files_of(index))))
    except (InputError, OSError, ValueError):
        return [path]


@lru_cache(REMEMBERED)
def _identified(path: str, size: int, changed: int) -> Found:
    """Identifies a file. Size and modification time are part of the cache key, so a changed file is read again."""
    try:
        return identify_file(path).found
    except Exception as error:  # whatever a damaged file or a failing disk makes of it
        return Found(Kind.BROKEN, str(error))
