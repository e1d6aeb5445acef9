"""Reading a network's file or release for the host, by the core's own detection."""

from __future__ import annotations

from pathlib import Path

from ...hallo3_core.errors import InputError
from ...hallo3_core.release.detect import expect
from ...hallo3_core.release.layout import Release
from ...hallo3_core.weights import names
from ...hallo3_core.weights.parts import Parts, sort_tensors
from ...hallo3_core.weights.reading import read_tensors

PROJECTORS_FILE = "hallo3_projectors.safetensors"
SAVED_PREFIX = "model.diffusion_model."  # what core's ModelSave puts before our names
SAVED_MARK = SAVED_PREFIX + "video_positions"
_PROJECTORS = (names.AUDIO_PROJECTOR, names.FACE_PROJECTOR)


def read_engine(path: Path, part: str, *, with_projectors: bool = False) -> Parts:
    """The tensors of a release folder, an official file, a converted one, or one that ModelSave wrote.

    Files of the denoiser alone take the projectors from the file of that name beside them.

    Raises:
        InputError: the file is something else, by name; or the projectors are nowhere.
    """
    if path.is_dir():
        return Release(path).transformers()
    tensors = read_tensors(path)
    if SAVED_MARK in tensors:
        tensors = {n.removeprefix(SAVED_PREFIX): t for n, t in tensors.items() if n.startswith(SAVED_PREFIX)}
    else:
        expect(path, part)
    parts = sort_tensors(tensors)
    if with_projectors and any(name not in parts.tensors for name in _PROJECTORS):
        beside = path.parent / PROJECTORS_FILE
        if not beside.is_file():
            raise InputError(
                f"{path.name} holds the denoiser without its projectors: put {PROJECTORS_FILE} into {path.parent}, or "
                "choose the release instead"
            )
        expect(beside, names.AUDIO_PROJECTOR)
        parts.add(sort_tensors(read_tensors(beside)))
    return parts
