"""The host's input folder, with the project's samples beside its files."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import folder_paths

from ...hallo3_core.errors import InputError
from ...hallo3_core.inputs.samples import PORTRAIT, SPEECH

# The samples as the host's dropdowns name them. The page shows and plays the copies in the temporary folder.
SAMPLE_PORTRAIT = "sample portrait.jpg [temp]"
SAMPLE_VOICE = "sample voice.flac [temp]"
SAMPLES = {SAMPLE_PORTRAIT: PORTRAIT, SAMPLE_VOICE: SPEECH}
_log = logging.getLogger(__name__)


def input_folder() -> Path:
    """Returns the folder, and creates it if needed."""
    folder = Path(folder_paths.get_input_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def choices(sample: str, kinds: Iterable[str]) -> list[str]:
    """A dropdown's entries: the sample, then the input folder's files of these kinds ("image", "audio", "video")."""
    _put(sample)
    try:
        names = [path.name for path in Path(folder_paths.get_input_directory()).iterdir() if path.is_file()]
    except OSError:  # missing, or may not be read: the sample still can be
        names = []
    return [sample, *sorted(folder_paths.filter_files_content_types(names, list(kinds)))]


def _put(sample: str) -> None:
    """Copies a sample to where the page shows it from, unless it is there."""
    target = Path(folder_paths.get_temp_directory()) / sample.removesuffix(" [temp]")
    try:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(SAMPLES[sample], target)
    except OSError as error:  # the node reads its own file, so that only the picture on it is missing
        _log.info("%s: the page cannot show the sample (%s)", target, error.strerror)


def path_of(name: str) -> Path:
    """The file of a dropdown's entry: a sample's own, or one of the host's folders (`name [output]` and so on).

    Raises:
        InputError: no such file, or a name that leads out of the folder.
    """
    if name in SAMPLES:
        return SAMPLES[name]
    try:
        path = Path(folder_paths.get_annotated_filepath(str(name)))
    except ValueError:
        path = Path()
    if not path.is_file():
        raise InputError(f"{name}: no such file in ComfyUI's input folder. Choose or upload it again, or the sample.")
    return path


def fault_of(name: str | None) -> str | bool:
    """The host's question before a run: True, or what is wrong with the file. A link brings its name later."""
    try:
        return name is None or bool(path_of(name))
    except InputError as error:
        return str(error)


def fingerprint(name: str | None) -> str:
    """Changes when the content of the file does."""
    try:
        with path_of(name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (InputError, OSError):  # the node itself says what is wrong
        return ""


def shown(picture: Path) -> dict[str, Any]:
    """The UI output that makes the page show a picture of the input folder on the node."""
    return {"images": [{"filename": picture.name, "subfolder": "", "type": "input"}]}
