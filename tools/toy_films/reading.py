"""Measurements of a film: by the drawn world's instruments, and identity by the release's face networks."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hallo3_core.errors import InputError
from hallo3_core.inputs.face import FaceAnalyser, choose_face, load_face_analyser
from hallo3_core.release.layout import Release
from hallo3_core.toy.world.films import HELD_OUT, draw_film
from hallo3_core.toy.world.instruments import measure, sync

from .films import Subject, truth, voice_of

CROWD = 100  # people among whom the film's person must be the nearest
LATE = 27  # the frame from which a mouth has closed if its voice stopped at frame QUIET
LAGS = range(-3, 4)  # delays of the mouth in the reported curve, frames
SEEN = (0.4, 0.7, 1.0)  # positions in the film of the frames used for identity


def read_film(frames: Tensor, subject: Subject, release: Path) -> dict[str, float | bool | list[float]]:
    """Measures a film ``n h w 3``, uint8. If the instruments find no face, only `readable` is returned, as False."""
    film = truth(subject.person, subject.frames, subject.square)
    try:
        found, true = measure(frames, "film"), measure(film.frames, "true film")
    except InputError:
        return {"readable": False}
    mouth, own = found.mouth[:, 0], film.mouth[:, 0]
    heard = truth(voice_of(subject), subject.frames).mouth[:, 0]
    correlation, lag = sync(mouth, heard)
    return {
        "readable": True,
        "sync": correlation,
        "lag": lag,
        "curve": [late(mouth, heard, by) for by in LAGS],
        "sync_own": sync(mouth, own)[0],
        "open": float(mouth.mean()),
        "open_late": float(mouth[LATE:].mean()),
        "open_late_true": float(heard[LATE:].mean()),
        "mouth_motion": float(mouth.std()),
        "mouth_motion_true": float(heard.std()),
        "background_motion": found.background_motion,
        "background_motion_true": true.background_motion,
        "head_motion": found.head_motion,
        "head_motion_true": true.head_motion,
        "hair": float(np.abs(found.hair - true.hair).mean()),
        "clothes": float(np.abs(found.clothes - true.clothes).mean()),
        "skin": float(np.abs(found.skin - true.skin).mean()),
        **likeness(frames, subject.person, release),
    }


def late(mouth: np.ndarray, true: np.ndarray, by: int, reach: int = 3) -> float:
    """Correlation of the mouth with the true track, on the assumption that it is `by` frames late."""
    inner = len(true) - 2 * reach
    found = np.corrcoef(mouth[reach + by : reach + by + inner], true[reach : reach + inner])[0, 1]
    return float(np.nan_to_num(found))


def likeness(frames: Tensor, person: int, release: Path) -> dict[str, float | bool]:
    """Mean cosine similarity to the portrait, and whether the portrait's person is the nearest of `CROWD`."""
    embeddings = []
    for share in SEEN:
        face = embedding(frames[round(share * (len(frames) - 1))], release)
        if face is not None:
            embeddings.append(face)
    if not embeddings:
        return {"face_found": False, "likeness": 0.0, "nearest": False}
    mean = torch.nn.functional.normalize(torch.stack(embeddings).mean(0), dim=0)
    scores = crowd(release) @ mean
    return {"face_found": True, "likeness": float(scores[person]), "nearest": int(scores.argmax()) == person}


def embedding(frame: Tensor, release: Path) -> Tensor | None:
    """The face embedding of unit length; None if no face is found."""
    try:
        face = choose_face(analyser(release).analyse(frame.movedim(-1, 0) / 255), name="frame")
    except InputError:
        return None
    return torch.nn.functional.normalize(face.embedding, dim=0)


@lru_cache(maxsize=1)
def analyser(release: Path) -> FaceAnalyser:
    return load_face_analyser(Release(release).face_folder)


@lru_cache(maxsize=1)
def crowd(release: Path) -> Tensor:
    """Portrait embeddings of `CROWD` held-out people, ``n 512``; zeros if no face is found."""
    found = [embedding(torch.from_numpy(draw_film(HELD_OUT[n], 1).frames[0]), release) for n in range(CROWD)]
    return torch.stack([torch.zeros(512) if face is None else face for face in found])
