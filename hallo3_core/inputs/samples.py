"""The portrait and the recording that come with the project, and the names under which the example workflows ask for
them. Both are the project's own work: `assets/README.md`."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import InputError

ASSETS = Path(__file__).parents[2] / "assets"
PORTRAIT, SPEECH = ASSETS / "portrait.jpg", ASSETS / "speech.flac"
NAMES = {"hallo3_portrait.jpg": PORTRAIT, "hallo3_speech.flac": SPEECH}  # in ComfyUI's input folder


def copy_samples(folder: str | Path) -> list[Path]:
    """Put both into a folder, such as ComfyUI's `input`; returns their paths. A file of that name stays as it is.

    Raises:
        InputError: no such folder, or it cannot be written to.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Give ComfyUI's input folder: .../ComfyUI/input.")
    targets = [folder / name for name in NAMES]
    try:
        for target, source in zip(targets, NAMES.values(), strict=True):
            if not target.exists():
                shutil.copyfile(source, target)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}).") from error
    return targets
