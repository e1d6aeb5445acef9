"""Drawn films in memory: the training data of the toy networks."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..world.films import DrawnFilm, draw_film

log = logging.getLogger(__name__)

ARRAYS = ("frames", "sounds", "mouths", "boxes", "points")
MOUTH_MARGIN = (4, 9)  # pixels around the mouth's corners, horizontal and vertical, for frames 96 high


@dataclass(frozen=True, eq=False)
class DrawnFootage:
    """Films of one length, by seed: `frames` ``n f h w 3`` uint8, `sounds` ``n samples`` (16 kHz), `mouths` ``n f 2``
    (height and width, 0..1), `boxes` ``n 2 4``: the area around the mouth and the face (left, top, right, bottom, in
    pixels), `points` ``n 5 2``: eyes, nose and corners of the mouth in the first frame."""

    seeds: tuple[int, ...]
    frames: np.ndarray
    sounds: np.ndarray
    mouths: np.ndarray
    boxes: np.ndarray
    points: np.ndarray
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.seeds)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        (folder / "captions.txt").write_text("\n".join(self.captions) + "\n")
        (folder / "seeds.txt").write_text(" ".join(map(str, self.seeds)) + "\n")

    @classmethod
    def load(cls, folder: Path) -> DrawnFootage:
        arrays = [np.lib.format.open_memmap(folder / f"{name}.npy", mode="r") for name in ARRAYS]
        captions = tuple((folder / "captions.txt").read_text().splitlines())
        return cls(tuple(map(int, (folder / "seeds.txt").read_text().split())), *arrays, captions)


Row = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, str]  # one film's part of each Footage field


def draw_row(seed: int, frames: int, size: tuple[int, int]) -> Row:
    film = draw_film(seed, frames, size)
    return film.frames, film.speech.samples, film.mouth, boxes(film), film.face_points[0], film.caption


def boxes(film: DrawnFilm) -> np.ndarray:
    """``2 4``: the box around the mouth in all frames, with a margin, and that of the face."""
    corners = film.face_points[:, 3:].reshape(-1, 2)
    beside, over = (margin * film.frames.shape[1] / 96 for margin in MOUTH_MARGIN)
    (left, top), (right, bottom) = corners.min(0), corners.max(0)
    return np.array([(left - beside, top - over, right + beside, bottom + over), film.face_box], dtype=np.float32)


def draw_footage(
    seeds: Sequence[int], frames: int, size: tuple[int, int], processes: int = 1, seconds: float | None = None
) -> DrawnFootage:
    """Draws the films of these seeds in several processes; after `seconds`, keeps only those that are ready.

    Raises:
        ValueError: no film was ready in time.
    """
    began, rows = time.monotonic(), {}
    if processes <= 1:
        for seed in seeds:
            rows[seed] = draw_row(seed, frames, size)
            if seconds is not None and time.monotonic() - began > seconds:
                break
    else:
        context = multiprocessing.get_context("spawn")  # CUDA does not work after a fork
        alone = dict(initializer=torch.set_num_threads, initargs=(1,))  # one thread per process
        with ProcessPoolExecutor(processes, mp_context=context, **alone) as pool:
            waiting = {pool.submit(draw_row, seed, frames, size): seed for seed in seeds}
            for ready in as_completed(waiting):
                rows[waiting[ready]] = ready.result()
                if seconds is not None and time.monotonic() - began > seconds:
                    pool.shutdown(wait=False, cancel_futures=True)
                    break
    if not rows:
        raise ValueError("no video was drawn in time")
    kept = sorted(rows)
    columns = list(zip(*(rows[seed] for seed in kept), strict=True))
    log.info("%d videos drawn in %.0f s", len(kept), time.monotonic() - began)
    return DrawnFootage(tuple(kept), *(np.stack(column) for column in columns[:-1]), tuple(columns[-1]))
