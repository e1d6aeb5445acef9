"""Reads a film's frames and sound for the cache: which frames its clips take, and what cannot be read, by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ..clips import FRAMES_PER_CLIP
from ..errors import InputError
from ..inputs.audio import REACH
from ..inputs.recording import Recording
from .film import FilmError, Pictures, TrainingFilm
from .placing import Placing

Value = TypeVar("Value")


def looked_at(film: TrainingFilm) -> Pictures:
    """The film's pictures, long enough for a clip.

    Raises:
        FilmError: they are not, or not readable.
    """
    look = _film_problem(film, film.look)
    if look.count < FRAMES_PER_CLIP:
        raise FilmError(f"{film.name}: {look.count} frames, but a clip has {FRAMES_PER_CLIP}. Use longer videos.")
    return look


def film_sound(film: TrainingFilm) -> Recording:
    """The film's sound.

    Raises:
        FilmError: it is not readable.
    """
    return _film_problem(film, film.sound)


def read(film: TrainingFilm, look: Pictures, numbers: Sequence[int]) -> Iterator[Tensor]:
    """The film's frames with these numbers, ascending, uint8 ``3 h w``.

    Raises:
        FilmError: they cannot be read.
    """
    frames = look.pictures(numbers)
    while (frame := _film_problem(film, lambda: next(frames, None))) is not None:
        if frame.dtype != torch.uint8:
            raise FilmError(f"{film.name}: frames of {frame.dtype}, expected bytes.")
        yield frame


def window_starts(frames: int, count: int | None) -> Tensor:
    """Start frames of `count` clips, spread evenly over the original's range, so that audio windows stay inside the
    film; None: as many as it takes to use all of it. A film too short for those margins is used from its first frame.
    """
    first, last = REACH + 1, frames - FRAMES_PER_CLIP - REACH - 1
    if last < first:
        first, last = 0, frames - FRAMES_PER_CLIP
    if count is None:
        count = 1 + -(-(last - first) // FRAMES_PER_CLIP)
    return torch.linspace(first, last, min(count, last - first + 1), dtype=torch.float64).round().long()


def windows(look: Pictures, place: Placing, starts: Sequence[int]) -> Iterator[Tensor]:
    """The clips that start at these frames, ascending: uint8 ``49 3 H W``, in one pass over the film."""
    numbers = sorted({start + n for start in starts for n in range(FRAMES_PER_CLIP)})
    frames, held = zip(numbers, read(place.film, look, numbers), strict=True), {}
    for start in starts:
        held = {number: frame for number, frame in held.items() if number >= start}
        while start + FRAMES_PER_CLIP - 1 not in held:
            number, frame = next(frames)
            held[number] = place.frames(frame[None])[0]
        yield torch.stack([held[start + n] for n in range(FRAMES_PER_CLIP)])


def _film_problem(film: TrainingFilm, read: Callable[[], Value]) -> Value:
    try:
        return read()
    except InputError as error:
        text = str(error)
        raise FilmError(text if text.startswith(film.name) else f"{film.name}: {text}") from error
