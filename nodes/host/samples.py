"""The host's input folder, from which LoadImage and LoadAudio read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths


def input_folder() -> Path:
    """Returns the folder, and creates it if needed."""
    folder = Path(folder_paths.get_input_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def shown(picture: Path) -> dict[str, Any]:
    """The UI output that makes the page show a picture of the input folder on the node."""
    return {"images": [{"filename": picture.name, "subfolder": "", "type": "input"}]}
