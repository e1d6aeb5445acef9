"""Distributes films among independent workers: a worker makes the films that it claims.

A claim is a locked file beside the film. The lock is released when its process ends for any reason, so another worker
can take over the film at once. Workers can start and stop at any time; they only need to share the output folder.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ..animate import FinishedFilm
from ..errors import InputError
from ..film.locking import try_lock
from .batch import Job

LOOK_AGAIN = 1.0  # seconds between attempts to get another worker's lock


def make_films(
    jobs: Mapping[Path, Job], make: Callable[[Job, Path], FinishedFilm], worker: int = 0, workers: int = 1
) -> Iterator[tuple[Path, FinishedFilm | InputError]]:
    """Makes the missing films as worker number `worker` of about `workers`: first its own share, then what remains of
    the others'. Yields each result as soon as it is done; at the end, no other worker is working on these films.

    A film that cannot be made (`make` raises InputError) is skipped; each worker tries it once.

    Raises:
        InputError: the films' folder is not writable.
    """
    for film in take(list(jobs), worker, workers):
        try:
            yield film, make(jobs[film], film)
        except InputError as error:
            yield film, error


def take(films: Sequence[Path], worker: int = 0, workers: int = 1) -> Iterator[Path]:
    """Yields the films that this worker should make. Each stays claimed until the next one is requested.

    The first pass takes films that nobody else has claimed. The second waits for the others: if their worker finished,
    the film exists; if it died, this worker takes over.
    """
    order = sorted(range(len(films)), key=lambda number: (number - worker) % workers)
    taken = set()
    for patient in (False, True):
        for film in (films[number] for number in order):
            if film in taken or film.exists():
                continue
            with claim(film, patient) as ours:
                if ours and not film.exists():
                    taken.add(film)
                    yield film


def claim_file(film: Path) -> Path:
    """The file that a worker locks to claim a film."""
    return film.with_name(f".{film.name}.claim")


@contextlib.contextmanager
def claim(film: Path, patient: bool = False) -> Iterator[bool]:
    """Claims a film inside the block and yields whether that succeeded; with `patient`, waits until it does.

    The claim file names the process and machine that hold it, for people to read.

    Raises:
        InputError: the film's folder is missing or not writable.
    """
    path = claim_file(film)
    try:
        while (lock := try_lock(path)) is None and patient:
            time.sleep(LOOK_AGAIN)
    except OSError as error:
        raise InputError(f"{film}: nothing can be written to {film.parent} ({error.strerror})") from error
    if lock is None:
        yield False
        return
    with contextlib.suppress(OSError):  # Windows does not allow writing to a locked file
        path.write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")
    try:
        yield True
    finally:
        lock.release()
