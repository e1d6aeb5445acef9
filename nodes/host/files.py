"""Model files: the entries of the loaders' dropdowns and the paths behind them.

Only offered names are accepted, so no name can point outside the model folders. `models/hallo3` is a separate kind: its
files are offered as `hallo3/<file>`, and a release in it (the official layout, or converted files) as one entry,
`hallo3/<folder>/`. Other folders come from ComfyUI's list, including extra_model_paths.yaml.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ...hallo3_core.release.layout import CONVERTED_FILES, TRANSFORMER_FOLDER

OWN_KIND = "hallo3"
TENSOR_FILES = (".safetensors", ".sft", ".pt", ".pth", ".ckpt", ".bin")
SHARD = re.compile(r"-\d{5}-of-\d{5}\.")  # part of a sharded model, which is offered as a folder


def register_folder() -> None:
    """Registers `models/hallo3` with the host. Paths from extra_model_paths.yaml are kept."""
    folder_paths.add_model_folder_path(OWN_KIND, os.path.join(folder_paths.models_dir, OWN_KIND))


def tensor_files(*kinds: str) -> dict[str, Path]:
    """Weight files by offered name: those of the host's kinds, then those in our own folders."""
    found = {}
    for kind in kinds:
        for name in folder_paths.get_filename_list(kind):
            if _is_weights(name) and (path := folder_paths.get_full_path(kind, name)):
                found.setdefault(name, Path(path))
    for root in _roots():
        inside = [folder for _, folder in _releases(root) if (folder / TRANSFORMER_FOLDER).is_dir()]
        for path in sorted(root.rglob("*")):
            if _is_weights(path.name) and not any(folder in path.parents for folder in inside):
                found.setdefault(f"{OWN_KIND}/{path.relative_to(root).as_posix()}", path)
    return found


def releases() -> dict[str, Path]:
    """Release folders by offered name."""
    return {name: folder for root in _roots() for name, folder in _releases(root)}


def folders_with(marker: str, *kinds: str) -> dict[str, Path]:
    """Direct subfolders of the kinds' folders and of our own that hold a file matching the pattern `marker`."""
    found = {}
    for kind in (*kinds, OWN_KIND):
        prefix = f"{OWN_KIND}/" if kind == OWN_KIND else ""
        for root in map(Path, folder_paths.get_folder_paths(kind)):
            for folder in _subfolders(root):
                if any(folder.glob(marker)):
                    found.setdefault(f"{prefix}{folder.name}/", folder)
    return found


def face_folders() -> dict[str, Path]:
    """Face model packs by offered name: in InsightFace's folders and in our own."""
    found = {}
    for models in {Path(folder_paths.models_dir), *(Path(root).parent for root in _roots())}:
        for folder in _subfolders(models / "insightface" / "models"):
            if any(folder.glob("*.onnx")):
                found.setdefault(f"insightface/{folder.name}/", folder)
    return found | folders_with("*.onnx")


def _is_weights(name: str) -> bool:
    return name.lower().endswith(TENSOR_FILES) and not SHARD.search(name)


def _roots() -> list[Path]:
    return [path for path in map(Path, folder_paths.get_folder_paths(OWN_KIND)) if path.is_dir()]


def _releases(root: Path) -> Iterator[tuple[str, Path]]:
    for folder in (root, *_subfolders(root)):
        if (folder / TRANSFORMER_FOLDER / "latest").is_file() or any(folder.glob(CONVERTED_FILES)):
            name = f"{folder.name}/" if folder != root else ""
            yield f"{OWN_KIND}/{name}", folder


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
