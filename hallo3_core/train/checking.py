"""Looks at all films of a run before anything is computed: seconds, for films that take hours to cache."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ..clips import FPS, FRAMES_PER_CLIP
from ..errors import InputError
from .cache import FilmEntry, mouth_weight
from .config import Data, TrainingConfig
from .film import FilmError, TrainingFilm
from .placing import placing
from .reading import looked_at, window_starts

log = logging.getLogger(__name__)


def problems(films: Sequence[TrainingFilm], data: Data, with_audio: bool) -> dict[int, str]:
    """What is wrong with films, by their number, as far as their headers and boxes tell."""
    found = {}
    for number, film in enumerate(films):
        try:
            look = looked_at(film)
            mouth_weight(film, placing(film, look, tuple(data.size)), data)
            if with_audio and film.sound is None and film.audio is None:
                raise FilmError(f"{film.name}: has no sound, which this mode trains on.")
        except FilmError as error:
            found[number] = str(error)
    return found


def check_held_out(films: Sequence[TrainingFilm], held_out: int) -> None:
    """Checks that what is held out is not trained on. Warns if clips of one recording are on both sides.

    Raises:
        InputError: too many films are held out, or one of them is also trained on.
    """
    kept = len(films) - held_out
    if kept < 1:
        raise InputError(f"data.held_out is {held_out} of {len(films)} videos: none is left to train on.")
    trained = {film.look_identity: film.name for film in films[:kept]}
    for film in films[kept:]:
        if film.look_identity in trained:
            raise InputError(
                f"{film.name}: is held out, but {trained[film.look_identity]} has the same pictures and is trained on. "
                "Leave one of them out: the validation loss would say nothing."
            )
    shared = {film.recording for film in films[:kept]} & {film.recording for film in films[kept:]} - {""}
    if shared:
        log.warning(
            "clips of %s are trained on and held out: the validation loss will be lower than on new recordings. Hold "
            "out whole recordings (key source names a clip's recording).",
            ", ".join(sorted(shared)[:3]),
        )


@dataclass(frozen=True)
class Usage:
    """What a run uses of its films: films and clips to train on, clips held out, seconds that the films last, and how
    many of them lie in a clip."""

    films: int
    clips: int
    held_out: int
    seconds: float
    used: float

    def line(self, config: TrainingConfig) -> str:
        """One line for the log."""
        epochs = config.stop.steps * config.batch / max(1, self.clips)
        return (
            f"videos: {self.films}, {self.seconds:.0f} s; clips of {FRAMES_PER_CLIP / FPS:.2f} s: {self.clips}, using "
            f"{self.used:.0f} s of them; clips held out: {self.held_out}. {config.stop.steps} steps of {config.batch} "
            f"see each clip {epochs:.1f} times."
        )


def usage(entries: Sequence[FilmEntry], held_out: Sequence[FilmEntry]) -> Usage:
    """What is used of films that are cached."""
    lengths = {entry.film: entry.frames for entry in entries}
    used = {film: set() for film in lengths}
    for entry in entries:
        for start in entry.starts.tolist():
            used[entry.film].update(range(start, start + FRAMES_PER_CLIP))
    return Usage(
        films=len(lengths),
        clips=sum(len(entry.clip) for entry in entries),
        held_out=sum(len(entry.clip) for entry in held_out),
        seconds=sum(lengths.values()) / FPS,
        used=sum(map(len, used.values())) / FPS,
    )


def planned_usage(films: Sequence[TrainingFilm], data: Data) -> Usage:
    """What would be used of films whose headers are in order."""
    lengths = [film.look().count for film in films]
    starts = [window_starts(length, data.windows) for length in lengths]
    kept = len(films) - data.held_out
    used = [len({start + n for start in found.tolist() for n in range(FRAMES_PER_CLIP)}) for found in starts]
    return Usage(
        films=kept,
        clips=sum(map(len, starts[:kept])),
        held_out=sum(map(len, starts[kept:])),
        seconds=sum(lengths[:kept]) / FPS,
        used=sum(used[:kept]) / FPS,
    )
