"""Many films among many workers, who know nothing of each other: a film is made by whoever claims it.

A claim is a locked file beside the film. The lock goes with its process, however that ends, so another worker can take
the film over at once; workers may come and go. They have to share the folder of the films, no more.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ..animate import Film
from ..errors import InputError
from ..film.locking import try_lock
from .batch import Job

LOOK_AGAIN = 1.0  # seconds, while others are at work


def make_films(
    jobs: Mapping[Path, Job], make: Callable[[Job, Path], Film], worker: int = 0, workers: int = 1
) -> Iterator[tuple[Path, Film | InputError]]:
    """Make the films that are not there yet, as worker number `worker` of about so many: its share first, then what is
    left of the others'. Each result is told when it is there; at the end no other worker is at one of these films.

    A film that cannot be made (`make` raises InputError) is skipped; each worker tries it once.

    Raises:
        InputError: nothing can be written to the films' folder.
    """
    for film in take(list(jobs), worker, workers):
        try:
            yield film, make(jobs[film], film)
        except InputError as error:
            yield film, error


def take(films: Sequence[Path], worker: int = 0, workers: int = 1) -> Iterator[Path]:
    """The films that this worker is to make, one after another; each is claimed until the next is asked for.

    First those that nobody else is making. Then the others: when their maker is done they are there, and when it has
    died they are this worker's.
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
    """The file whose lock is the claim to a film."""
    return film.with_name(f".{film.name}.claim")


@contextlib.contextmanager
def claim(film: Path, patient: bool = False) -> Iterator[bool]:
    """Claim a film for as long as the block lasts: whether it is ours, as it is at last for the patient.

    The claim's file says for people who holds it.

    Raises:
        InputError: the film's folder is missing or cannot be written to.
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
    with contextlib.suppress(OSError):  # Windows: what is locked is not to be written to
        path.write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")
    try:
        yield True
    finally:
        lock.release()
