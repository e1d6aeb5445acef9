"""Whether the toy's mouths follow their voices through the whole command line: PNG and MP3 in, MP4 out.

    python benchmarks/whole_program.py [--people 20] [--clips 2] [--output FILE.json]

Once at the released weights' default scales and once at the toy's plain ones. The results are for the toy.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.effect_parts.program import made
from benchmarks.effect_parts.table import interval
from hallo3_core.clips import NEW_FRAMES_PER_CLIP
from hallo3_core.errors import InputError
from hallo3_core.sampling.guidance import Scales
from hallo3_core.toy.learnt_release import write_toy_release
from hallo3_core.toy.world.films import HELD_OUT, DrawnFilm, draw_film
from hallo3_core.toy.world.instruments import measure, sync
from tools.testbed.measuring import machine, report
from tools.toy_films.films import PLAIN

SCALES = {"default scales": Scales(), "plain scales": PLAIN.guidance.scales}


def reading(frames: np.ndarray, film: DrawnFilm) -> dict:
    """Sync of the whole film at lag 0, and the lag at which it is best."""
    try:
        mouth = measure(frames).mouth[:, 0]
    except InputError:
        return {"readable": False}
    correlation, lag = sync(mouth, film.mouth[: len(mouth), 0])
    return {"readable": True, "sync": round(correlation, 4), "lag": lag}


def summary(films: list[dict]) -> dict:
    readable = [film for film in films if film["readable"]]
    found = {"films": len(films), "readable": len(readable)}
    if readable:
        found["sync"] = interval([film["sync"] for film in readable])
        found["lags"] = [film["lag"] for film in readable]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    films: dict[str, list[dict]] = {name: [] for name in SCALES}
    with tempfile.TemporaryDirectory() as folder:
        release = write_toy_release(Path(folder) / "toy")
        for person in range(args.people):
            film = draw_film(HELD_OUT[person], args.clips * NEW_FRAMES_PER_CLIP)
            for name, scales in SCALES.items():
                frames = made(film, release, Path(folder), scales=scales)
                films[name].append({"person": person, **reading(frames, film)})
    found = {name: {**summary(rows), "by film": rows} for name, rows in films.items()}
    about = {"clips": args.clips, "steps": PLAIN.steps, "sampler": PLAIN.sampler}
    report({**about, **found, **machine("cpu", torch.float32)}, args.output)


if __name__ == "__main__":
    main()
