"""The sample portrait and recording that come with the project, under the names that the example workflows use. Both
are the project's own work: `assets/README.md`."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import InputError

ASSETS = Path(__file__).parents[2] / "assets"
PORTRAIT, SPEECH = ASSETS / "portrait.jpg", ASSETS / "speech.flac"
NAMES = {"hallo3_portrait.jpg": PORTRAIT, "hallo3_speech.flac": SPEECH}  # file names in ComfyUI's input folder


def copy_samples(folder: str | Path) -> list[Path]:
    """Copies both into a folder, such as ComfyUI's `input`, and returns their paths. Existing files are kept.

    Raises:
        InputError: the folder is missing or not writable, or the samples were not installed.
    """
    folder = Path(folder)
    if not PORTRAIT.exists():
        raise InputError(
            f"{PORTRAIT}: the samples are in the pack's own folder, not in an installed package. Clone it."
        )
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
