"""Model files by offered name: the entries of the loaders' dropdowns.

Only offered names are accepted, so no name can point outside the model folders. `models/hallo3` is a separate kind: its
files are offered as `hallo3/<file>`, and a release in it (the official layout, in part too, or converted files) as one
entry, `hallo3/<folder>/`. Other folders come from ComfyUI's list, including extra_model_paths.yaml.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import folder_paths

from ...hallo3_core.release.layout import (
    CONVERTED_FILES,
    FACE_FOLDER,
    TEXT_FOLDER,
    TRANSFORMER_FOLDER,
    VAE_FILE,
    VOCALS_FILE,
    WAV2VEC_FOLDER,
)
from .listing import children, files_below, readable

OWN_KIND = "hallo3"
VOCALS_KIND = "audio_separator"  # the release's name for it; no kind of the host's
TENSOR_FILES = (".safetensors", ".sft", ".pt", ".pth", ".ckpt", ".bin")
SHARD = re.compile(r"-\d{5}-of-\d{5}\.")  # part of a sharded model, which is offered as a folder
TAG = f"{TRANSFORMER_FOLDER}/latest"
NEEDED = (VAE_FILE, TEXT_FOLDER, WAV2VEC_FOLDER, FACE_FOLDER)  # beside the transformers, for every video
PLACES = (*NEEDED, VOCALS_FILE)
LAYOUT = tuple(sorted({Path(place).parts[0] for place in (TAG, *PLACES)}))  # a release's folders

log = logging.getLogger(__name__)


def register_folder() -> None:
    """Registers `models/hallo3` with the host. Paths from extra_model_paths.yaml are kept."""
    folder_paths.add_model_folder_path(OWN_KIND, str(own_folder()))


def own_folder() -> Path:
    """`models/hallo3`, where downloads go."""
    return Path(folder_paths.models_dir) / OWN_KIND


def release_folder() -> Path:
    """Where our own messages put the official release."""
    return Path(folder_paths.models_dir) / OWN_KIND / "release"


def tensor_files(*kinds: str) -> dict[str, Path]:
    """Weight files by offered name: those of the host's kinds, then those in our own folders. What lies in the layout
    of a release is offered with the release alone."""
    found: dict[str, Path] = {}
    for kind in kinds:
        for name, path in _listed(kind):
            if _is_weights(name):
                found.setdefault(readable(name), path)
    for root in _roots(OWN_KIND):
        inside = tuple(os.path.join(folder, place, "") for _, folder in _releases(root) for place in LAYOUT)
        for path in files_below(root):
            if _is_weights(path.name) and not str(path).startswith(inside):
                found.setdefault(_own_name(root, path), path)
    return found


def releases() -> dict[str, Path]:
    """Release folders by offered name."""
    found: dict[str, Path] = {}
    for root in _roots(OWN_KIND):
        for name, folder in _releases(root):
            found.setdefault(name, folder)
    return found


def folders_with(marker: str, *kinds: str) -> dict[str, Path]:
    """Direct subfolders of the kinds' folders and of our own that hold a file matching the pattern `marker`."""
    found: dict[str, Path] = {}
    for kind in (*kinds, OWN_KIND):
        prefix = f"{OWN_KIND}/" if kind == OWN_KIND else ""
        for root in _roots(kind):
            for folder in children(root)[0]:
                if _has(folder, marker):
                    found.setdefault(f"{prefix}{readable(folder.name)}/", folder)
    return found


def face_folders() -> dict[str, Path]:
    """Face model packs by offered name: in InsightFace's folders and in our own."""
    found: dict[str, Path] = {}
    for models in dict.fromkeys((Path(folder_paths.models_dir), *(root.parent for root in _roots(OWN_KIND)))):
        for folder in children(models / "insightface" / "models")[0]:
            if _has(folder, "*.onnx"):
                found.setdefault(f"insightface/{readable(folder.name)}/", folder)
    return found | folders_with("*.onnx")


def separators() -> dict[str, Path]:
    """ONNX vocal models by offered name: anywhere in models/hallo3 and in models/audio_separator."""
    roots = [(OWN_KIND, root) for root in _roots(OWN_KIND)]
    roots.append((VOCALS_KIND, Path(folder_paths.models_dir) / VOCALS_KIND))
    found: dict[str, Path] = {}
    for kind, root in roots:
        for path in files_below(root):
            name = path.name.lower()
            if name.endswith(".onnx") and "vocal" in name:
                found.setdefault(_own_name(root, path, kind), path)
    return found


def has_transformers(folder: Path) -> bool:
    """Whether a folder is a release with its transformer file or files that `convert` made from one."""
    return os.path.isfile(folder / TAG) or _has(folder, CONVERTED_FILES)


def _is_weights(name: str) -> bool:
    return name.lower().endswith(TENSOR_FILES) and not SHARD.search(name)


def _own_name(root: Path, path: Path, kind: str = OWN_KIND) -> str:
    return f"{kind}/{readable(path.relative_to(root).as_posix())}"


def _listed(kind: str) -> Iterator[tuple[str, Path]]:
    """Names and paths of a kind as the host lists it, or as we do where the host fails, as it does for a folder that
    vanishes."""
    try:
        names = folder_paths.get_filename_list(kind)
    except Exception as error:  # whatever the disk or an extension of the host raises
        log.debug("the host cannot list %s (%s)", kind, error)
        for root in _roots(kind):
            yield from ((str(path.relative_to(root)), path) for path in files_below(root))
        return
    for name in names:
        if path := folder_paths.get_full_path(kind, name):
            yield name, Path(path)


def _roots(kind: str) -> list[Path]:
    try:
        folders = folder_paths.get_folder_paths(kind)
    except KeyError:  # a kind that this version of the host does not have
        return []
    return [Path(folder) for folder in folders if os.path.isdir(folder)]


def _releases(root: Path) -> Iterator[tuple[str, Path]]:
    for folder in (root, *children(root)[0]):
        if has_transformers(folder) or any(os.path.exists(folder / place) for place in PLACES):
            name = f"{readable(folder.name)}/" if folder != root else ""
            yield f"{OWN_KIND}/{name}", folder


def _has(folder: Path, pattern: str) -> bool:
    return any(fnmatchcase(path.name, pattern) for path in children(folder)[1])
