"""The trained toy release: networks trained on the drawn world, packed in `weights/` next to this file.

`pack` makes that folder from a trained release; `write_toy_release` makes a release in the official layout from it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError
from ..inputs.face import DETECTOR, RECOGNISER
from ..inputs.text import PIECES, read_weights
from ..release.layout import (
    FACE_FOLDER,
    TEXT_FOLDER,
    TOY_NOTICE,
    TRANSFORMER_FILE,
    TRANSFORMER_FOLDER,
    VAE_FILE,
    WAV2VEC_FOLDER,
    Release,
)
from ..weights.reading import read_tensors
from .learning.train_text import write_text_encoder, write_tokenizer
from .learning.train_wav2vec import write_wav2vec
from .packed import FILES, TEXT, TRANSFORMERS, VAE, WAV2VEC, WEIGHTS
from .packing import pack_tensors, unpack_tensors
from .sizes import LEARNT, Sizes

HALF = (TEXT, WAV2VEC)  # small enough to store in float16
NOTICE = """This is a toy release: small networks trained on a drawn world, in the official layout, to try the program
without 40 GB of weights. It knows drawn people and their invented speech, and nothing else. A video made with it shows
what the program does, not what the released weights can do.
"""


def pack(release: Path | str, out: Path | str = WEIGHTS) -> Path:
    """Packs a trained toy release (official layout, or with the transformer file that training wrote) into a folder.

    Raises:
        InputError: part of the release is missing.
    """
    release, out = Release(release), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    transformers: dict[str, Tensor] = {}
    for path in release.transformer_files:
        transformers |= read_tensors(path)
    wav2vec = read_tensors(release.wav2vec_folder / "model.safetensors")
    parts = {
        TRANSFORMERS: transformers,
        VAE: read_tensors(release.folder / VAE_FILE),
        TEXT: read_weights(release.text_folder),
        WAV2VEC: {n.removeprefix("wav2vec2."): t for n, t in wav2vec.items() if not n.startswith("lm_head.")},
    }
    for name, tensors in parts.items():
        packed = {n: t.half() for n, t in tensors.items()} if name in HALF else pack_tensors(tensors)
        save_file({n: t.contiguous() for n, t in packed.items()}, str(out / name), {"format": "pt"})
    for folder, file in (
        (release.text_folder, PIECES),
        (release.face_folder, DETECTOR),
        (release.face_folder, RECOGNISER),
    ):
        if not (folder / file).is_file():
            raise InputError(f"{folder / file}: missing, so the release can't be packed. Train it again.")
        shutil.copyfile(folder / file, out / file)
    return out


def write_toy_release(folder: Path | str, weights: Path | None = None, sizes: Sizes = LEARNT) -> Path:
    """Writes the trained toy release into `folder`, which must be missing or empty. `weights` is the folder that `pack`
    made; None: the one in the package.

    Raises:
        InputError: the folder is not empty, or the packed weights are missing.
    """
    folder, weights = Path(folder), WEIGHTS if weights is None else weights
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: not empty; name a new folder for the toy release")
    missing = [name for name in FILES if not (weights / name).is_file()]
    if missing:
        raise InputError(
            f"{weights / missing[0]}: missing, so there is no learnt toy release. Install the package with its "
            "weights, make them with ./dev toy-train, or write the noise release: tiny --noise."
        )
    write_transformers(folder, unpack_tensors(load_file(weights / TRANSFORMERS), torch.bfloat16))
    write_vae(folder, unpack_tensors(load_file(weights / VAE)))
    text = folder / TEXT_FOLDER
    write_tokenizer(text, (weights / PIECES).read_bytes())
    write_text_encoder(text, load_file(weights / TEXT), sizes)
    write_wav2vec(folder / WAV2VEC_FOLDER, load_file(weights / WAV2VEC), sizes)
    faces = folder / FACE_FOLDER
    faces.mkdir(parents=True)
    for file in (DETECTOR, RECOGNISER):
        shutil.copyfile(weights / file, faces / file)
    (folder / TOY_NOTICE).write_text(NOTICE)
    return folder


def write_transformers(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Writes the transformer file of a release, and the tag file that points to it."""
    path = folder / TRANSFORMER_FOLDER / "1" / TRANSFORMER_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"module": dict(tensors)}, path)
    (folder / TRANSFORMER_FOLDER / "latest").write_text("1")
    return path


def write_vae(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Writes the VAE file of a release; tensors by official name."""
    path = folder / VAE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": dict(tensors)}, path)
    return path
