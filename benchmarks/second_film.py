"""Time until sampling starts, for the first and second video of a batch, with and without keeping networks loaded.

    python benchmarks/second_film.py MODELS [--device cpu] [--runs 5] [--output FILE]

Measured from the call to the first clip's first step: reading inputs, loading networks, encoding. Reports wall seconds,
and CPU seconds, which other programs do not affect. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from hallo3_core.animate import Progress, animate
from hallo3_core.film.work_folder import Keeping
from hallo3_core.pipeline.networks import Networks
from hallo3_core.pipeline.options import Options, Settings
from hallo3_core.release.layout import Release

ROOT = Path(__file__).parents[1]


class Begun(Exception):
    """Raised when sampling starts, which ends the measurement."""


class Start(Progress):
    def start(self, clips: int, steps: int) -> None:
        raise Begun


def seconds_to_sampling(networks: Networks, folder: Path) -> tuple[float, float]:
    """Starts a film of the demo's portrait and speech; returns the wall and CPU seconds until its first step."""
    start, busy = time.perf_counter(), time.process_time()
    inputs = (ROOT / "assets" / "portrait.jpg", ROOT / "assets" / "speech.flac", "A person talks.")
    output = folder / "film.mp4"
    with suppress(Begun):
        animate(*inputs, networks.release, output, networks.options, Start(), Keeping.NEVER, networks=networks)
    return time.perf_counter() - start, time.process_time() - busy


def measure(models: Path, device: str, dtype: torch.dtype, runs: int) -> dict:
    """Measures pairs of films `runs` times, alternating between networks kept and not kept."""
    options = Options(Settings(steps=1), device=device, dtype=dtype)
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        seconds_to_sampling(Networks(Release(models), options), Path(folder))  # warms up imports and the file cache
        for _ in range(runs):
            for kept in (False, True):
                networks = Networks(Release(models), options, keep=kept)
                for film in ("first", "second"):
                    name = f"{film} film, {'kept' if kept else 'not kept'}"
                    found.setdefault(name, []).append(seconds_to_sampling(networks, Path(folder)))
    return {
        name: {
            "seconds": [round(clock, 3) for clock, _ in times],
            "processor": [round(busy, 3) for _, busy in times],
            "best": round(min(clock for clock, _ in times), 3),
            "median": round(statistics.median(clock for clock, _ in times), 3),
            "processor median": round(statistics.median(busy for _, busy in times), 3),
        }
        for name, times in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    result = {
        "models": args.models.name,
        "device": args.device,
        "dtype": args.dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **measure(args.models, args.device, getattr(torch, args.dtype), args.runs),
    }
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
