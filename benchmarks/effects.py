"""The measured effect of each condition of the toy release on a video, for unseen people, voices and prompts.

    python benchmarks/effects.py [--quick] [--processes 2] [--output benchmarks/results/effects-toy.json]

Videos that are already in the output file are skipped, so an interrupted run resumes. The table is printed. The
results are for the toy and its drawn world, and say nothing about the released weights.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.effect_parts.experiments import Counts, Job, jobs
from benchmarks.effect_parts.table import markdown, summarise
from hallo3_core.release.layout import Release
from hallo3_core.toy.learnt_release import write_toy_release
from tools.testbed.measuring import machine
from tools.toy_films.films import Studio
from tools.toy_films.reading import read_film

OUTPUT = Path(__file__).parent / "results" / "effects-toy.json"
WRITTEN_EVERY = 2  # films
_studio: list[Studio] = []  # of a worker process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few films of each")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    wanted = jobs(Counts.quick() if args.quick else Counts())
    films = json.loads(args.output.read_text())["films"] if args.output.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        release = write_toy_release(Path(folder) / "toy")
        for number, film in enumerate(made(_missing(wanted, films), release, args.processes)):
            films.append(film)
            if number % WRITTEN_EVERY == 0:
                _write(films, wanted, args.output)
    _write(films, wanted, args.output)
    sys.stdout.write(markdown(summarise(_ordered(films, wanted))))


def made(wanted: list[Job], release: Path, processes: int):
    """Yields the measurements of each job's film as they become ready."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(release,)) as pool:
        waiting = [pool.submit(make, job, release) for job in wanted]
        for ready in tqdm(as_completed(waiting), total=len(waiting), unit="film", disable=None):
            yield ready.result()


def _begin(release: Path) -> None:
    torch.set_num_threads(1)
    _studio.append(Studio(Release(release)))


def make(job: Job, release: Path) -> dict:
    frames = _studio[0].film(job.subject, job.changes)
    key = {"experiment": job.experiment, "variant": job.variant, "person": job.subject.person}
    return key | read_film(frames, job.subject, release)


def _missing(wanted: list[Job], films: list[dict]) -> list[Job]:
    there = {(film["experiment"], film["variant"], film["person"]) for film in films}
    return [job for job in wanted if (job.experiment, job.variant, job.subject.person) not in there]


def _ordered(films: list[dict], wanted: list[Job]) -> list[dict]:
    """Sorts films by experiment and variant, in the order of the jobs."""
    places = {(job.experiment, job.variant): place for place, job in reversed(list(enumerate(wanted)))}
    return sorted(films, key=lambda film: (places.get((film["experiment"], film["variant"]), 0), film["person"]))


def _write(films: list[dict], wanted: list[Job], path: Path) -> None:
    films = _ordered(films, wanted)
    rounded = [{k: round(v, 4) if isinstance(v, float) else v for k, v in film.items()} for film in films]
    content = {"machine": machine("cpu", torch.float32), "rows": summarise(films), "films": rounded}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    unfinished.replace(path)


if __name__ == "__main__":
    main()
