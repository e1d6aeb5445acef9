"""Reads a network's file or release for the host, using the core's detection."""

from __future__ import annotations

from pathlib import Path

from ...hallo3_core.errors import InputError
from ...hallo3_core.release.detect import expect
from ...hallo3_core.release.layout import Release
from ...hallo3_core.weights import names
from ...hallo3_core.weights.parts import Parts, read_parts, sort_tensors, transformer_config
from ...hallo3_core.weights.reading import read_tensors

PROJECTORS_FILE = "hallo3_projectors.safetensors"


def read_transformers(path: Path, part: str, *, with_projectors: bool = False) -> Parts:
    """Reads the tensors of a release folder, an official file, a converted file, or a file from ModelSave.

    If a file holds only the denoiser, the projectors come from PROJECTORS_FILE in the same folder.

    Raises:
        InputError: the file holds something else, which the message names, or there are no projectors.
    """
    if path.is_dir():
        return Release(path).transformers()
    expect(path, part)
    parts = read_parts(path)
    if with_projectors and not _projectors_of(parts, path.name) <= parts.tensors.keys():
        beside = path.parent / PROJECTORS_FILE
        if not beside.is_file():
            raise InputError(
                f"{path.name} holds the denoiser without its projectors: put {PROJECTORS_FILE} into {path.parent}, or "
                "choose the release instead"
            )
        expect(beside, min(_projectors_of(parts, path.name)))
        parts.add(sort_tensors(read_tensors(beside)))
    return parts


def _projectors_of(parts: Parts, label: str) -> set[str]:
    """Names of the projectors that the denoiser needs. Without audio or face attention, it does not need theirs."""
    config = transformer_config(parts, names.DENOISER, label)
    needed = {names.AUDIO_PROJECTOR: config.audio, names.FACE_PROJECTOR: config.face}
    return {name for name, width in needed.items() if width}
