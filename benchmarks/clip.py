"""A whole clip of the released length, phase by phase: seconds and peak memory, with random weights.

    python benchmarks/clip.py [--preset cpu-medium] [--steps 2] [--device cpu] [--dtype float32] [--compile]

Each network is there for its phase alone, as on the command line; making its random weights is not counted. The last
line is JSON. Peak memory is what CUDA allocated, or on Linux what of the process was resident, weights included.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import Phases, machine, report
from benchmarks.presets import PRESETS, Preset, build_networks, build_reference_net, build_vae, draw_inputs
from hallo3_core.compiling import compile_blocks
from hallo3_core.image import plan_framing
from hallo3_core.latents import decode
from hallo3_core.noise import SeededNoise
from hallo3_core.options import Settings
from hallo3_core.pipeline import concat_latent, sample_clip
from hallo3_core.portrait import prepare_portrait
from hallo3_core.run import prepare_run


def measure(sizes: Preset, steps: int, device: str, dtype: torch.dtype, compiled: bool = False) -> dict[str, dict]:
    """Seconds and peak memory of every phase of a film's first clip."""
    phase, given, settings = Phases(device), draw_inputs(sizes, device, dtype), Settings(steps=steps)
    grid = sizes.denoiser.grid
    height, width = 16 * grid.rows, 16 * grid.columns
    picture = torch.rand(1, 3, height, width, device=device, dtype=dtype)
    framing, mask = plan_framing(height, width, height, width, "auto"), torch.ones(height, width).to(picture)
    vae = build_vae(sizes, device, dtype)
    reference_net = build_reference_net(sizes, device, dtype)
    portrait = phase("portrait", lambda: prepare_portrait(picture, mask, framing, vae, reference_net))
    reference_net.to("meta")
    networks = build_networks(sizes, device, dtype)
    denoiser, noise = networks.denoiser, SeededNoise(0, 0)
    tokens = phase("sound and face", lambda: (networks.audio(given.audio), networks.face(given.face)))
    networks = replace(networks, audio=None, face=None)
    run = phase(
        "what is constant",
        lambda: prepare_run(
            denoiser,
            portrait,
            settings,
            text=given.text,
            face_tokens=tokens[1],
            null_audio_tokens=tokens[0].flip(1),
            dtype=dtype,
        ),
    )
    denoiser.modulation.to("meta")
    concat = phase("encode", lambda: concat_latent(vae, portrait.pixels, None, noise))
    if compiled:
        compile_blocks(denoiser)
        phase("first steps", lambda: sample_clip(denoiser, run, concat, tokens[0], noise))
    latent = phase("steps", lambda: sample_clip(denoiser, run, concat, tokens[0], noise))
    phase("decode", lambda: sum(len(frames) for frames in decode(vae, latent.to(dtype))))
    found = phase.found
    found["steps"]["seconds_per_step"] = round(found["steps"]["seconds"] / steps, 4)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu-medium")
    parser.add_argument("--steps", type=int, default=2, help="of two evaluations each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--output", type=Path, help="write the result to this file too")
    given = parser.parse_args(arguments)
    dtype = getattr(torch, given.dtype)
    with torch.inference_mode():
        phases = measure(PRESETS[given.preset], given.steps, given.device, dtype, given.compile)
    head = {"preset": given.preset, "steps": given.steps, "compiled": given.compile}
    report({"phases": phases, **head, **machine(given.device, dtype)}, given.output)


if __name__ == "__main__":
    main()
