"""Videos in the host's temp folder: tracks those that the host has cached, and detects deleted files.

The host caches a node's result until an input changes. If the temp folder is emptied, a cached result points to a
missing file, and without this module the node would not run again.
"""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import folder_paths
from comfy_api.latest import InputImpl

from ...hallo3_core.errors import InputError

ELSEWHERE = "start ComfyUI with --temp-directory FOLDER on another disk"
_made: WeakKeyDictionary[Any, tuple[str, Path]] = WeakKeyDictionary()  # VIDEO -> the node that made it, its file
_lost: dict[str, int] = {}  # node -> number of its videos that were deleted while cached


def temp_folder() -> Path:
    """The host's temp folder.

    Raises:
        InputError: it cannot be made or written to.
    """
    folder = Path(folder_paths.get_temp_directory())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"ComfyUI's temp folder {folder} cannot be written to ({reason}). Make it writable, or {ELSEWHERE}."
        ) from error
    return folder


def temp_video() -> Path:
    """A unique path for a video in the host's temp folder: earlier results may still be in use."""
    return temp_folder() / f"hallo3_{secrets.token_hex(8)}.mp4"


def video_of(path: Path, node_id: str | None = None) -> Any:
    """Wraps a node's video file as the host's VIDEO."""
    video = InputImpl.VideoFromFile(str(path))
    _made[video] = (str(node_id), path)
    return video


def losses(node_id: str | None) -> int:
    """A number that changes when a cached video of the node has been deleted."""
    for video, (node, path) in list(_made.items()):
        if node == str(node_id) and not path.is_file():
            del _made[video]
            _lost[node] = _lost.get(node, 0) + 1
    return _lost.get(str(node_id), 0)
