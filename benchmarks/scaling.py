"""How time and memory grow with the video's length, the picture's size and the number of steps.

    python benchmarks/scaling.py [--preset smallest] [--lengths 1 2 4 8] [--grids 2x3 4x6 6x9] [--steps 1 2 4]

Random weights on the CPU. Clips are made one by one and freed, as the video writer takes them, so memory should not
grow with length, and time should grow linearly. The last line is JSON.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.exact_film import film_clips
from benchmarks.measuring import Phases, machine, report
from benchmarks.presets import PRESETS, Preset, build_networks, build_reference_net, build_vae, draw_inputs
from hallo3_core.clips import NEW_FRAMES_PER_CLIP
from hallo3_core.inputs.image import plan_framing
from hallo3_core.inputs.portrait import prepare_portrait
from hallo3_core.model.config import Grid
from hallo3_core.pipeline.conditions import prepare_run
from hallo3_core.pipeline.options import Settings
from hallo3_core.sampling.noise import SeededNoise


class Film:
    """Makes films of any length, at one size."""

    def __init__(self, sizes: Preset):
        grid = sizes.denoiser.grid
        height, width = 16 * grid.rows, 16 * grid.columns
        self.inputs, self.networks = draw_inputs(sizes), build_networks(sizes)
        self.vae = build_vae(sizes, "cpu", torch.float32)
        self.tokens = self.networks.audio(self.inputs.audio)
        framing, picture = plan_framing(height, width, height, width, "auto"), torch.rand(1, 3, height, width)
        reference_net = build_reference_net(sizes, "cpu", torch.float32)
        self.portrait = prepare_portrait(picture, torch.ones(height, width), framing, self.vae, reference_net)

    def make(self, clips: int, steps: int) -> None:
        denoiser = self.networks.denoiser
        run = prepare_run(
            denoiser,
            self.portrait,
            Settings(steps=steps),
            text=self.inputs.text,
            face_tokens=self.networks.face(self.inputs.face),
            null_audio_tokens=self.tokens.flip(1),
        )
        frames, noise = clips * NEW_FRAMES_PER_CLIP, SeededNoise
        made = film_clips(
            denoiser, self.vae, run, self.portrait, frames, lambda clip: self.tokens, lambda clip: noise(0, clip)
        )
        for _ in made:
            pass


def measure(sizes: Preset, lengths: list[int], grids: list[Grid], steps: list[int]) -> dict[str, dict]:
    """By length (one step), by grid (one clip of one step), by steps (one clip)."""
    films = {grid: Film(replace(sizes, denoiser=replace(sizes.denoiser, grid=grid))) for grid in grids}
    film = films[grids[0]]
    film.make(1, 1)  # warm-up
    found: dict[str, dict] = {}
    for name, runs in {
        "clips": [(clips, film, clips, 1) for clips in lengths],
        "grid": [(f"{grid.rows}x{grid.columns}", films[grid], 1, 1) for grid in grids],
        "steps": [(count, film, 1, count) for count in steps],
    }.items():
        phase = Phases()
        for label, of, clips, count in runs:
            phase(str(label), lambda of=of, clips=clips, count=count: of.make(clips, count))
        found[name] = phase.found
    return found


def grid(text: str) -> Grid:
    rows, columns = (int(side) for side in text.split("x"))
    return Grid(13, rows, columns)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="smallest")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 2, 4, 8], help="clips")
    parser.add_argument("--grids", type=grid, nargs="+", default=[grid(g) for g in ("2x3", "4x6", "6x9")])
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--output", type=Path, help="write the result to this file too")
    args = parser.parse_args(arguments)
    with torch.inference_mode():
        found = measure(PRESETS[args.preset], args.lengths, args.grids, args.steps)
    report({**found, "preset": args.preset, **machine("cpu", torch.float32)}, args.output)


if __name__ == "__main__":
    main()
