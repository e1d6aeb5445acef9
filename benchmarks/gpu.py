"""Measures this project on a GPU in one run of a few minutes: one JSON file to send back.

    python benchmarks/gpu.py [--preset full] [--device cuda] [--budget 480] [--parts ...] [--output gpu.json]

Needs torch, einops, safetensors and diffusers, but no weights: they are random. Parts run in order of importance, and
the file is rewritten after each, so an interrupted run keeps its results. A part that fails is recorded with its error,
and the run continues. A part whose time at full size on an H100 no longer fits into the budget is skipped.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gpu_parts import exactness, films, profiles, rates, steps, vae
from benchmarks.gpu_parts.bench import Bench, attempt
from hallo3_core.errors import InputError
from hallo3_core.runtime.devices import automatic_dtype, choose_device
from tools.testbed.presets import PRESETS


class Part(NamedTuple):
    """A measurement and its approximate seconds at full size on an H100."""

    work: Callable[[Bench], Any]
    seconds: float


PARTS = {
    "versions": Part(rates.versions, 5),
    "rates": Part(rates.rates, 8),
    "exact attention": Part(exactness.attention, 3),
    "exact fp8 matmul": Part(exactness.fp8_matmul, 2),
    "exact conv": Part(exactness.conv, 5),
    "exact denoiser": Part(exactness.denoiser, 8),
    "attention": Part(steps.attention, 8),
    "eager": Part(steps.eager, 30),
    "vae": Part(vae.vae, 40),
    "profile vae": Part(profiles.vae, 12),
    "profile step": Part(profiles.step, 15),
    "fp8": Part(steps.fp8, 25),
    "streamed": Part(steps.streams, 45),
    "in turn": Part(steps.one_by_one, 10),
    "toy film": Part(films.toy_film, 15),
    "clip": Part(films.clip_phases, 50),
    "compiled": Part(steps.compiled, 60),
    "exact compiled": Part(exactness.compiled, 40),
}


class Messages(logging.Handler):
    """Collects the project's warnings, to report them with their part."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage()[:300])

    def taken(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


def check(bench: Bench, names: list[str], budget: float, on_result: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Runs the parts with these names in order; after each, calls `on_result` with all results so far."""
    start, messages = time.perf_counter(), Messages()
    logging.getLogger("hallo3_core").addHandler(messages)
    result: dict[str, Any] = {"preset": bench.preset, "device": str(bench.device), "dtype": str(bench.dtype)[6:]}
    result |= {"budget": budget, "seconds": 0.0, "parts": {}}
    for name in names:
        part, begun = PARTS[name], time.perf_counter()
        if bench.is_full and begun - start + part.seconds > budget:
            result["parts"][name] = {"skipped": f"about {part.seconds:g} s, more than is left of the budget"}
        else:
            sys.stderr.write(f"{begun - start:6.1f} s  {name}\n")
            found = attempt(lambda part=part: part.work(bench))
            took = round(time.perf_counter() - begun, 2)
            result["parts"][name] = {"took_seconds": took, **found}
            if lines := messages.taken():
                result["parts"][name]["warnings"] = lines
        result["seconds"] = round(time.perf_counter() - start, 2)
        on_result(result)
    logging.getLogger("hallo3_core").removeHandler(messages)
    return result


def write(result: dict[str, Any], path: Path) -> None:
    """Writes atomically: the old file stays intact until the new one is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(f".{path.name}.new")
    whole.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(whole, path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, default=480, help="seconds")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    args = parser.parse_args(arguments)
    try:
        device = choose_device(args.device)
    except InputError as error:
        parser.error(str(error))
    bench = Bench(args.preset, device, automatic_dtype(device))
    result = check(bench, args.parts, args.budget, lambda found: write(found, args.output))
    sys.stderr.write(f"{result['seconds']:6.1f} s in all; the result is in {args.output}\n")


if __name__ == "__main__":
    main()
