"""Resuming a long film: the folder of its finished clips in the host's output, and the inputs that identify it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import folder_paths
from torch import Tensor

from ...hallo3_core.film.fingerprint import (
    MODEL_FILE,
    Inputs,
    about,
    describe,
    digest,
    file_identity,
    flat,
    spread,
    versions,
)
from ...hallo3_core.release.layout import Release
from .checkpoint import PROJECTORS_FILE
from .model import SOURCE
from .sampling import ClipSampler

FOLDER = "hallo3_resume"
LONGEST_KEY = 60
SAMPLES = 64  # of each tensor of weights or of a patch


def folder_of(key: str) -> Path:
    """The folder of a user's key, directly in our folder in the host's output.

    Letters, digits, `-` and `_` are kept. A key that is long or has other characters becomes its start plus a hash, so
    that no two keys share a folder.
    """
    name = re.sub(r"[^A-Za-z0-9_-]", "_", key)[:LONGEST_KEY]
    if name != key:
        name = f"{name}-{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()[:8]}"
    return Path(folder_paths.get_output_directory()) / FOLDER / name


def inputs_of(clips: ClipSampler, color_hold: float, seam_fade: int) -> Inputs:
    """Everything that the clips depend on. Network outputs are compared by samples: see `about`."""
    portrait, recording = clips.portrait, clips.features.recording
    banks = [*(portrait.bank or ()), *(portrait.null_bank or ())]
    return {
        "portrait": digest(portrait.pixels),
        "framing of the portrait": describe(portrait.framing),
        "recording": digest(recording.waveform, recording.rate),
        "features of the recording": about(clips.features.hidden),
        "reference": about(*banks) if banks else "none",
        "text": about(clips.text),
        "face": "none" if clips.face_tokens is None else about(clips.face_tokens),
        **flat(clips.settings),
        "seed": str(clips.seed),
        "color hold": f"{color_hold:g}",
        "seam fade": str(seam_fade),
        **model_inputs(clips.patcher),
        "VAE": spell(clips.vae.vae.first_stage_model.state_dict()),
        **versions(),
    }


def model_inputs(patcher: Any) -> Inputs:
    """What identifies a MODEL: its files, samples of its weights' patches (LoRAs, merges), and other nodes' options.

    Options count by the names of functions and classes and by plain values, so two functions with the same name are not
    distinguished.
    """
    path, choice = patcher.get_attachment(SOURCE)
    files = Release(path).transformer_files if path.is_dir() else [path, path.with_name(PROJECTORS_FILE)]
    return {
        **{MODEL_FILE + file.name: file_identity(file) for file in files},
        "weight dtype": choice,
        "patches of the model (LoRAs)": spell(patcher.patches),
        "options of the model": spell(patcher.model_options),
    }


def spell(value: Any) -> str:
    """Hashes nested values; tensors count by shape and samples."""
    return digest(_words(value))


def _words(value: Any) -> Any:
    if isinstance(value, Tensor):
        return f"{list(value.shape)}" if value.is_meta else f"{list(value.shape)} {spread(value, SAMPLES).tolist()}"
    if isinstance(value, dict):
        return sorted((str(key), _words(each)) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return [_words(each) for each in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    name = getattr(value, "__qualname__", type(value).__qualname__)
    plain = {key: each for key, each in getattr(value, "__dict__", {}).items() if isinstance(each, (int, float, str))}
    return [name, sorted(plain.items()), _words(getattr(value, "weights", None))]
