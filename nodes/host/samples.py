"""The host's input folder, where LoadImage and LoadAudio look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths


def input_folder() -> Path:
    """The folder, made if it is not there yet."""
    folder = Path(folder_paths.get_input_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def shown(picture: Path) -> dict[str, Any]:
    """A picture of the input folder, for the page to show on the node."""
    return {"images": [{"filename": picture.name, "subfolder": "", "type": "input"}]}
