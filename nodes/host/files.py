"""Model files: what the dropdowns of the loaders offer, and the paths behind their entries.

A name is taken only if it is offered, so no name can lead out of the model folders. `models/hallo3` is a kind of its
own: its files are offered as `hallo3/<file>`, and a release in it (the official layout, or converted files) as a whole,
`hallo3/<folder>/`. Other folders come from ComfyUI's list, extra_model_paths.yaml included.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import folder_paths

from ...hallo3_core.errors import InputError
from ...hallo3_core.release.layout import CONVERTED_FILES, TRANSFORMER_FOLDER

OWN_KIND = "hallo3"
TENSOR_FILES = (".safetensors", ".sft", ".pt", ".pth", ".ckpt", ".bin")
NOTHING = "none found"  # an empty dropdown would be refused without a word of why


def register_folder() -> None:
    """Tell the host of `models/hallo3`; what extra_model_paths.yaml set for it stays."""
    folder_paths.add_model_folder_path(OWN_KIND, os.path.join(folder_paths.models_dir, OWN_KIND))


def tensor_files(*kinds: str) -> dict[str, Path]:
    """Weights files by offered name: those of the host's kinds, then those of our own folders."""
    found = {}
    for kind in kinds:
        for name in folder_paths.get_filename_list(kind):
            if name.lower().endswith(TENSOR_FILES) and (path := folder_paths.get_full_path(kind, name)):
                found.setdefault(name, Path(path))
    for root in _roots():
        inside = [folder for _, folder in _releases(root) if (folder / TRANSFORMER_FOLDER).is_dir()]
        for path in sorted(root.rglob("*")):
            if path.suffix in TENSOR_FILES and not any(folder in path.parents for folder in inside):
                found.setdefault(f"{OWN_KIND}/{path.relative_to(root).as_posix()}", path)
    return found


def releases() -> dict[str, Path]:
    """Release folders by offered name."""
    return {name: folder for root in _roots() for name, folder in _releases(root)}


def folders_with(marker: str, *kinds: str) -> dict[str, Path]:
    """Folders that hold a file of the pattern `marker`, directly in a folder of one of the kinds or in our own."""
    found = {}
    for kind in (*kinds, OWN_KIND):
        prefix = f"{OWN_KIND}/" if kind == OWN_KIND else ""
        for root in map(Path, folder_paths.get_folder_paths(kind)):
            for folder in _subfolders(root):
                if any(folder.glob(marker)):
                    found.setdefault(f"{prefix}{folder.name}/", folder)
    return found


def face_folders() -> dict[str, Path]:
    """Face model packs by offered name: InsightFace's own folders, and what our folders hold."""
    found = {}
    for models in {Path(folder_paths.models_dir), *(Path(root).parent for root in _roots())}:
        for folder in _subfolders(models / "insightface" / "models"):
            if any(folder.glob("*.onnx")):
                found.setdefault(f"insightface/{folder.name}/", folder)
    return found | folders_with("*.onnx")


def names(found: dict[str, Path]) -> Sequence[str]:
    """The entries of a dropdown."""
    return sorted(found) or [NOTHING]


def find(name: str, found: dict[str, Path], what: str, where: str) -> Path:
    """The path behind an entry. `what` and `where` are for the message: "denoiser", "models/diffusion_models".

    Raises:
        InputError: not an entry (any more).
    """
    if name not in found:
        has = f"{name!r} is not there" if name != NOTHING else "none found"
        raise InputError(f"{what}: {has}. Put the file into {where} or models/{OWN_KIND}, and refresh the page (R).")
    return found[name]


def _roots() -> list[Path]:
    return [path for path in map(Path, folder_paths.get_folder_paths(OWN_KIND)) if path.is_dir()]


def _releases(root: Path) -> Iterator[tuple[str, Path]]:
    for folder in (root, *_subfolders(root)):
        if (folder / TRANSFORMER_FOLDER / "latest").is_file() or any(folder.glob(CONVERTED_FILES)):
            name = f"{folder.name}/" if folder != root else ""
            yield f"{OWN_KIND}/{name}", folder


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
