"""Training films: from a folder with clips.jsonl, the original's JSON list, or arrays in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..clips import FPS, FRAMES_PER_CLIP
from ..errors import InputError, require
from ..film.fingerprint import digest, file_digest
from ..inputs.recording import Recording, read_recording
from .arrays import read_array

LIST = "clips.jsonl"


@dataclass(frozen=True, eq=False)
class Film:
    """One film. Expensive inputs are functions, read when called.

    frames: uint8 ``n 3 h w``, 25 per second; sound: as long as the film, None if training does not use it; box: one
    box of the face's oval in all frames, pixels; or boxes ``n 4``, one per frame in 0..1; or mask ``h w``, uint8; face:
    ArcFace embedding ``512``; audio: precomputed features ``n l d``. What is None is computed. mouth: one box
    around the mouth in all frames, pixels, only needed if its part of the loss counts more (`data.mouth_weight`).
    identity: equal for equal content; consent: who was asked for permission.
    """

    name: str
    frames: Callable[[], Tensor]
    caption: str
    identity: str
    sound: Callable[[], Recording] | None = None
    box: tuple[float, float, float, float] | None = None
    boxes: Tensor | None = None
    mask: Tensor | None = None
    face: Tensor | None = None
    audio: Tensor | None = None
    mouth: tuple[float, float, float, float] | None = None
    consent: str = "unknown"


def film_of_arrays(
    name: str,
    frames: np.ndarray | Tensor,
    caption: str,
    box: Sequence[float],
    samples: np.ndarray | Tensor | None = None,
    rate: int = 16_000,
    face: Tensor | None = None,
    mouth: Sequence[float] | None = None,
    consent: str = "own",
) -> Film:
    """Makes a film from arrays: frames ``n h w 3``, uint8; samples ``k`` in -1..1; boxes of face and mouth, pixels."""
    pictures = torch.as_tensor(frames).permute(0, 3, 1, 2)
    sound = None
    if samples is not None:
        waveform = torch.as_tensor(samples, dtype=torch.float32)[None]
        sound = partial(Recording, waveform, rate, name)
    identity = digest(pictures, caption, tuple(box), waveform if sound else None, rate, face)
    box, mouth = tuple(map(float, box)), mouth and tuple(map(float, mouth))
    return Film(name, lambda: pictures, caption, identity, sound, box=box, face=face, mouth=mouth, consent=consent)


def read_films(path: Path) -> list[Film]:
    """Lists the films of a folder with clips.jsonl, or of the original's JSON file, without reading frames.

    Raises:
        InputError: missing folder or list, invalid line, missing film, or no films at all.
    """
    if path.is_file() and path.suffix == ".json":
        return _original(path)
    listing = path / LIST
    if not listing.is_file():
        raise InputError(f"{listing}: no such file; data.folder names a folder of clips with {LIST}.")
    films = []
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            films.append(_of_line(line, path, f"{listing}, line {number}"))
    if not films:
        raise InputError(f"{listing}: no clips in it.")
    return films


def _of_line(line: str, folder: Path, where: str) -> Film:
    try:
        entry = json.loads(line)
        name, caption = entry["film"], entry["caption"]
    except (ValueError, KeyError, TypeError) as error:
        lack = f"has no {error.args[0]}" if isinstance(error, KeyError) else "is no JSON object"
        raise InputError(f"{where}: {lack}; a clip has film, sound and caption.") from error
    film, sound = folder / name, folder / entry.get("sound", name)
    for file in (film, sound):
        if not file.is_file():
            raise InputError(f"{where}: {file} is missing.")
    box, mouth = entry.get("face_box"), entry.get("mouth_box")
    for key, found in (("face_box", box), ("mouth_box", mouth)):
        if found is not None and not _is_box(found):
            raise InputError(f"{where}: {key} is {found}, expected [left, top, right, bottom] in pixels.")
    return Film(
        name=str(film),
        frames=partial(read_frames, film),
        caption=caption,
        identity=digest(file_digest(film), file_digest(sound), caption, box),
        sound=partial(read_recording, sound),
        box=box and tuple(map(float, box)),
        mouth=mouth and tuple(map(float, mouth)),
        consent=str(entry.get("consent", "unknown")),
    )


def _is_box(box: object) -> bool:
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(side, int | float) for side in box):
        return False
    return box[0] < box[2] and box[1] < box[3]


def _original(path: Path) -> list[Film]:
    """Reads the original's list: objects with video_path, face_emb_path, vocals_emb_base_all, caption, and the path of
    a mask or of boxes. Arrays are read without running code."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: no JSON ({error}).") from error
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: expected a list of clips, found {type(entries).__name__}; nothing to train on.")
    return [_of_entry(entry, path.parent, f"{path}, entry {number}") for number, entry in enumerate(entries, 1)]


def _of_entry(entry: dict, folder: Path, where: str) -> Film:
    def file(key: str) -> Path:
        found = folder / entry[key]
        if not found.is_file():
            raise InputError(f"{where}: {key} names {found}, which is missing.")
        return found

    try:
        film, face, audio = file("video_path"), file("face_emb_path"), file("vocals_emb_base_all")
        caption = str(entry["caption"])
        region = file("bbox" if "bbox" in entry else "face_mask_union_path")
    except KeyError as error:
        raise InputError(f"{where}: has no {error.args[0]}.") from error
    boxes = mask = None
    if "bbox" in entry:
        boxes = torch.tensor(json.loads(region.read_text()), dtype=torch.float64).reshape(-1, 4)
    else:
        image = require("PIL.Image", "Pillow", "reading masks")
        mask = torch.from_numpy(np.array(image.open(region).convert("L")))
    return Film(
        name=str(film),
        frames=partial(read_frames, film, rate=None),
        caption=caption,
        identity=digest(*(file_digest(path) for path in (film, face, audio, region)), caption),
        boxes=boxes,
        mask=mask,
        face=read_array(face).float().flatten(),
        audio=read_array(audio).float(),
    )


def read_frames(path: Path, rate: int | None = FPS) -> Tensor:
    """Reads a film's frames ``n 3 h w``, uint8. Its frame rate must be `rate`; None accepts any.

    Raises:
        InputError: the file is not readable, or has another frame rate.
    """
    av = require("av", "av", "reading films")
    try:
        with av.open(str(path.resolve()), options={"protocol_whitelist": "file"}) as container:
            stream = container.streams.video[0]
            found = stream.average_rate
            if rate is not None and found != rate:
                raise InputError(f"{path}: has {float(found or 0):g} frames a second, expected {rate}.")
            pictures = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
    except (av.error.FFmpegError, IndexError) as error:
        raise InputError(f"{path}: not readable as a film ({getattr(error, 'strerror', error)}).") from error
    if len(pictures) < FRAMES_PER_CLIP:
        raise InputError(f"{path}: {len(pictures)} frames, but a clip has {FRAMES_PER_CLIP}. Use longer films.")
    return torch.stack(pictures).permute(0, 3, 1, 2)
