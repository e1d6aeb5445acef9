"""Lists of training films: a folder with clips.jsonl, or the original's JSON list."""

from __future__ import annotations

import difflib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, require
from ..inputs.footage import Footage, open_footage
from ..inputs.recording import Recording, read_recording
from .arrays import read_array
from .film import Box, TrainingFilm
from .stored import Digests

log = logging.getLogger(__name__)
LIST = "clips.jsonl"
KEYS = ("film", "sound", "caption", "face_box", "mouth_box", "consent", "source")
MOST_SHOWN = 20  # problems in one message
_OTHER_NAMES = {"audio": "sound", "video": "film", "text": "caption", "prompt": "caption", "bbox": "face_box"}
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def read_films(path: Path, digests: Digests | None = None, skip_bad: bool = False) -> list[TrainingFilm]:
    """Lists the films of a folder with clips.jsonl, or of the original's JSON file, without decoding pictures.

    digests remembers the hashes of files that have not changed; skip_bad warns of lines that are wrong and goes on.

    Raises:
        InputError: missing folder or list, or nothing in it; or the first lines that are wrong, each with its reason.
    """
    digests = digests or Digests(None)
    if path.is_file() and path.suffix == ".json":
        listing, folder, entries = path, path.parent, _original_entries(path)
        film_of = _film_of_original
    else:
        listing, folder = path / LIST, path
        entries, film_of = _lines(listing), _film_of_line
    films, wrong = [], []
    for where, entry in entries:
        try:
            films.append(film_of(entry, folder, digests))
        except InputError as error:
            wrong.append(f"{where}: {error}")
    if wrong and not (skip_bad and films):
        raise InputError(refusal(wrong))
    for problem in wrong:
        log.warning("left out: %s", problem)
    if not films:
        raise InputError(f"{listing}: no clips in it.")
    return films


def read_frames(path: Path) -> Tensor:
    """All of a short film's pictures at once, ``n 3 h w``, uint8."""
    return torch.stack(list(open_footage(path).pictures()))


def refusal(wrong: list[str]) -> str:
    """Problems of films, one per line, as one message."""
    if len(wrong) == 1:
        return f"{wrong[0]} Fix it, or leave the video out (data.skip_bad)."
    more = [f"... and {len(wrong) - MOST_SHOWN} more."] if len(wrong) > MOST_SHOWN else []
    return "\n".join([*wrong[:MOST_SHOWN], *more, "Fix them, or leave these videos out (data.skip_bad)."])


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without byte order mark, or UTF-16 with one.

    Raises:
        InputError: missing, or in another encoding.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; data.folder names a folder of clips with {LIST}.")
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: is not UTF-8 text. Save the list again as UTF-8.") from error


def _lines(listing: Path) -> Iterator[tuple[str, str]]:
    """The lines and their places. Only a newline ends a line: captions may hold Unicode's other separators."""
    for number, line in enumerate(read_text(listing).split("\n"), 1):
        if line.strip():
            yield f"{listing}, line {number}", line


def _film_of_line(line: str, folder: Path, digests: Digests) -> TrainingFilm:
    entry = _object(line)
    for key in entry:
        if key not in KEYS:
            raise InputError(f"unknown key {key!r}{_closest(key)}. A clip has {', '.join(KEYS)}.")
    film = folder / _text(entry, "film")
    sound = film if entry.get("sound") is None else folder / _text(entry, "sound")
    for file in (film, sound):
        if not file.is_file():
            raise InputError(f"{file} is missing.")
    look = cache(partial(open_footage, film))
    return TrainingFilm(
        name=str(film),
        look=look,
        caption=_text(entry, "caption"),
        look_identity=digests.of(film),
        sound=partial(_sound, look) if sound == film else partial(read_recording, sound),
        sound_identity=digests.of(sound),
        box=_box(entry, "face_box"),
        mouth=_box(entry, "mouth_box"),
        recording=str(entry.get("source") or _cut_from(film)),
        consent=str(entry.get("consent", "unknown")),
    )


def _object(line: str) -> Mapping:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not a JSON object. A clip has {', '.join(KEYS)}.") from error
    if not isinstance(entry, Mapping):
        raise InputError(f"is not a JSON object. A clip has {', '.join(KEYS)}.")
    return entry


def _closest(key: str) -> str:
    found = _OTHER_NAMES.get(key) or next(iter(difflib.get_close_matches(key, KEYS, 1)), None)
    return f": did you mean {found}?" if found else ""


def _text(entry: Mapping, key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{key} is {json.dumps(value)}, expected text." if key in entry else f"has no {key}.")
    return value


def _box(entry: Mapping, key: str) -> Box | None:
    sides = entry.get(key)
    if sides is None:
        return None
    numbers = isinstance(sides, list) and all(type(side) in (int, float) for side in sides)
    if not numbers or len(sides) != 4 or not np.isfinite(sides).all() or sides[0] >= sides[2] or sides[1] >= sides[3]:
        raise InputError(f"{key} is {json.dumps(sides)}, expected [left, top, right, bottom] in pixels.")
    return tuple(map(float, sides))


def _sound(look) -> Recording:
    footage: Footage = look()
    return footage.sound()


def _cut_from(film: Path) -> str:
    """The recording that a clip seems to be cut from: its name without a number at its end."""
    return re.sub(r"[\W_]*(?:\d+[\W_]*)+$", "", film.stem) or film.stem


def _original_entries(path: Path) -> Iterator[tuple[str, object]]:
    """Objects with video_path, face_emb_path, vocals_emb_base_all, caption, and the path of a mask or of boxes."""
    try:
        entries = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: expected a list of clips, found {type(entries).__name__}; nothing to train on.")
    return ((f"{path}, entry {number}", entry) for number, entry in enumerate(entries, 1))


def _film_of_original(entry: object, folder: Path, digests: Digests) -> TrainingFilm:
    """Arrays are read without running code."""
    if not isinstance(entry, Mapping):
        raise InputError(f"is {json.dumps(entry)[:40]}, expected an object with video_path, caption and the others.")

    def file(key: str) -> Path:
        found = folder / _text(entry, key)
        if not found.is_file():
            raise InputError(f"{key} names {found}, which is missing.")
        return found

    film, face, audio = file("video_path"), file("face_emb_path"), file("vocals_emb_base_all")
    boxes = mask = None
    if "bbox" in entry:
        boxes = _boxes(file("bbox"))
    else:
        mask = _mask(file("face_mask_union_path"))
    embedding, features = read_array(face).float().flatten(), read_array(audio).float()
    if features.ndim != 3:
        raise InputError(f"{audio}: holds {list(features.shape)}, expected frames x layers x width.")
    return TrainingFilm(
        name=str(film),
        look=cache(partial(open_footage, film, coded=True)),
        caption=_text(entry, "caption"),
        look_identity=digests.of(film),
        boxes=boxes,
        mask=mask,
        face=embedding,
        audio=features,
        recording=_cut_from(film),
    )


def _boxes(path: Path) -> Tensor:
    """One box per frame, in 0..1: ``n 4``."""
    try:
        boxes = torch.tensor(json.loads(read_text(path)), dtype=torch.float64)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: expected a list of [left, top, right, bottom], one per frame.") from error
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes):
        raise InputError(f"{path}: holds {list(boxes.shape)}, expected frames x 4: left, top, right, bottom.")
    if not torch.isfinite(boxes).all() or boxes.max() > 1.5 or boxes.min() < -0.5:
        raise InputError(f"{path}: boxes reach {boxes.max():g}, expected shares of the picture in 0..1, not pixels.")
    if not (boxes[:, :2] < boxes[:, 2:]).all():
        frame = int((boxes[:, :2] >= boxes[:, 2:]).any(dim=1).nonzero()[0])
        raise InputError(
            f"{path}: box {frame} is {boxes[frame].tolist()}, expected left, top, right, bottom with left below right."
        )
    return boxes


def _mask(path: Path) -> Tensor:
    image = require("PIL.Image", "Pillow", "reading masks")
    try:
        return torch.from_numpy(np.array(image.open(path).convert("L")))
    except OSError as error:
        raise InputError(f"{path}: is not a picture ({error}).") from error
