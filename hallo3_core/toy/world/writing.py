"""Writes drawn films as files, mp4, wav and txt, with one list of them, so that they can be read like any footage."""

from __future__ import annotations

import json
import wave
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ...clips import FRAMES_PER_CLIP
from ...film.writer import FilmWriter
from .films import SIZE, DrawnFilm, draw_film
from .speech import RATE

LIST = "clips.jsonl"


def write_films(
    folder: str | PathLike,
    seeds: Sequence[int],
    frames: int = FRAMES_PER_CLIP,
    size: tuple[int, int] = SIZE,
    workers: int = 1,
) -> Path:
    """Writes the films of these seeds and their list into a folder; returns the list's path.

    A film's three files are named by its seed. Complete films are kept, so an interrupted run resumes; the list is
    written last. Each of its lines is an object: film, sound and caption (the text), face_box, consent ("own": shows no
    real person), frames, size (height, width), seed.

    Raises:
        InputError: PyAV is missing, or the disk is full.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write = partial(_write, folder, frames, size)
    with ExitStack() as stack:
        run = map
        if workers > 1:
            run = stack.enter_context(ProcessPoolExecutor(workers, get_context("spawn"), _one_thread)).map
        lines = list(tqdm(run(write, seeds), total=len(seeds), desc="drawing", unit="film"))
    path = folder / LIST
    part = path.with_suffix(".part")
    part.write_text("".join(f"{line}\n" for line in lines))
    part.replace(path)
    return path


def _one_thread() -> None:
    torch.set_num_threads(1)


def _write(folder: Path, frames: int, size: tuple[int, int], seed: int) -> str:
    """Writes one film's files unless they exist; returns its line of the list."""
    record = folder / f"{seed:07d}.json"
    if record.exists():
        line = record.read_text()
        entry = json.loads(line)
        if (entry["frames"], entry["size"]) == (frames, list(size)):
            return line
    film = draw_film(seed, frames, size)
    path = record.with_suffix(".mp4")
    write_sound(record.with_suffix(".wav"), film.speech.samples)
    record.with_suffix(".txt").write_text(film.caption + "\n")
    with FilmWriter(path, *size, ai_notice=False) as file:
        file.write(torch.from_numpy(film.frames))
    line = json.dumps(_entry(film, path.name))
    part = record.with_suffix(".part")
    part.write_text(line)
    part.replace(record)  # last: it marks the others as complete
    return line


def _entry(film: DrawnFilm, name: str) -> dict:
    frames, height, width, _ = film.frames.shape
    return {
        "film": name,
        "sound": str(Path(name).with_suffix(".wav")),
        "caption": film.caption,
        "face_box": film.face_box,
        "consent": "own",
        "frames": frames,
        "size": [height, width],
        "seed": film.seed,
    }


def write_sound(path: str | PathLike, samples: np.ndarray) -> None:
    """Writes samples ``n`` in -1..1 at 16 kHz as a 16-bit wav file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())
