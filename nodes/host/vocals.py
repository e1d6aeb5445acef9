"""Finds the models that separate a voice from music."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from .files import OWN_KIND
from .sources import Source

FOLDER = "audio_separator"  # the release's name for it


def separators() -> dict[str, Path]:
    """ONNX vocal models by offered name: anywhere in models/hallo3 and in models/audio_separator."""
    roots = [(OWN_KIND, Path(root)) for root in folder_paths.get_folder_paths(OWN_KIND)]
    roots.append((FOLDER, Path(folder_paths.models_dir) / FOLDER))
    found = {}
    for kind, root in roots:
        for path in sorted(root.rglob("*.onnx")):
            if "vocal" in path.name.lower():
                found.setdefault(f"{kind}/{path.relative_to(root).as_posix()}", path)
    return found


SOURCE = Source("vocal separation model", f"models/{FOLDER}", "", separators)
