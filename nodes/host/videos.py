"""Videos in the host's temp folder: which of them the host still hands out, and which of these are gone.

The host keeps a node's result until an input changes. A result that names a file outlives the file where somebody
empties the temp folder, and could then not be had again.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import folder_paths
from comfy_api.latest import InputImpl

_made: WeakKeyDictionary[Any, tuple[str, Path]] = WeakKeyDictionary()  # VIDEO -> the node that made it, and its file
_lost: dict[str, int] = {}  # node -> how many of its videos went while the host kept them


def temp_video() -> Path:
    """A name for a video in the host's temp folder, never the same twice: results of earlier runs may be in use."""
    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    return Path(folder) / f"hallo3_{secrets.token_hex(8)}.mp4"


def video_of(path: Path, node_id: str | None = None) -> Any:
    """A video file as the host's VIDEO, made by a node."""
    video = InputImpl.VideoFromFile(str(path))
    _made[video] = (str(node_id), path)
    return video


def losses(node_id: str | None) -> int:
    """A number that changes when a video of the node is gone that the host would hand out again."""
    for video, (node, path) in list(_made.items()):
        if node == str(node_id) and not path.is_file():
            del _made[video]
            _lost[node] = _lost.get(node, 0) + 1
    return _lost.get(str(node_id), 0)
