"""Whole clips: a toy film on the device against the CPU, and the phases of a clip at the preset's size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_parts.bench import Bench, attempt, relative_error, without_tf32
from benchmarks.gpu_parts.exactness import cast, name_of
from hallo3_core.clips import NEW_FRAMES_PER_CLIP
from hallo3_core.inputs.image import plan_framing
from hallo3_core.inputs.portrait import prepare_portrait
from hallo3_core.pipeline.conditions import prepare_run
from hallo3_core.pipeline.options import Settings
from hallo3_core.sampling.noise import SeededNoise
from tools.testbed.clip_phases import FP8, RESIDENT, measure
from tools.testbed.exact_film import film_clips
from tools.testbed.measuring import is_cpu
from tools.testbed.presets import PRESETS, build_networks, build_reference_net, build_vae, draw_inputs

CLIPS, STEPS = 2, 4
RESULTS = Path(__file__).parents[1] / "results"


@torch.inference_mode()
def toy_film(bench: Bench) -> dict[str, Any]:
    """Makes two clips of the smallest size, the second continuing the first, and compares their frames with those of
    the CPU in float32, from the same noise and weights. Differences are for pixels in 0..255."""
    expected = film("cpu", torch.float32)
    found: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        found[name_of(dtype)] = attempt(lambda d=dtype: film_differences(film(bench.device, d), expected))
    if not is_cpu(bench.device):
        with without_tf32():
            exact = attempt(lambda: film_differences(film(bench.device, torch.float32), expected))
        found["float32 without TF32"] = exact
        found["bfloat16 on the cpu"] = attempt(lambda: film_differences(film("cpu", torch.bfloat16), expected))
    return found


def film(device: torch.device | str, dtype: torch.dtype) -> list[Tensor]:
    """Frames of each clip, on the CPU."""
    sizes = PRESETS["smallest"]
    grid, inputs = sizes.denoiser.grid, draw_inputs(sizes, dtype=torch.bfloat16)
    height, width = 16 * grid.rows, 16 * grid.columns
    networks = cast(build_networks(sizes, dtype=torch.bfloat16), device, dtype)
    reference_net = build_reference_net(sizes, "cpu", torch.bfloat16).to(device, dtype)
    vae = build_vae(sizes, device, dtype)
    picture = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    framing = plan_framing(height, width, height, width, "auto")
    portrait = prepare_portrait(picture, torch.ones_like(picture[0, 0]), framing, vae, reference_net)
    tokens = networks.audio(inputs.audio.to(device, dtype))
    run = prepare_run(
        networks.denoiser,
        portrait,
        Settings(steps=STEPS),
        text=inputs.text,
        face_tokens=networks.face(inputs.face.to(device, dtype)),
        null_audio_tokens=networks.audio(torch.zeros_like(inputs.audio).to(device, dtype)),
        dtype=dtype,
    )
    frames = CLIPS * NEW_FRAMES_PER_CLIP
    noise = [SeededNoise(0, number) for number in range(CLIPS)]
    clips = film_clips(networks.denoiser, vae, run, portrait, frames, lambda number: tokens, noise.__getitem__)
    return [each.float().cpu() for each in clips]


def film_differences(found: list[Tensor], expected: list[Tensor]) -> list[dict[str, Any]]:
    return [
        {
            "mean": round(float((a - b).abs().mean() * 255), 4),
            "largest": round(float((a - b).abs().max() * 255), 3),
            "relative": relative_error(a, b),
            "finite": bool(torch.isfinite(a).all()),
        }
        for a, b in zip(found, expected, strict=True)
    ]


@torch.inference_mode()
def clip_phases(bench: Bench) -> dict[str, Any]:
    """Measures a clip's phases with the denoiser resident, then in fp8; at full size next to the memory that was
    counted without a GPU (`clip.py --device fake`)."""
    bench.free()
    return {weights: attempt(lambda w=weights: phases(bench, w)) for weights in (RESIDENT, FP8)}


def phases(bench: Bench, weights: str) -> dict[str, Any]:
    found = measure(bench.sizes, Settings(steps=STEPS), str(bench.device), bench.dtype, weights=weights)
    counted = RESULTS / f"clip-full-{weights}-counted.json"
    if bench.is_full and counted.exists():
        for name, row in json.loads(counted.read_text())["phases"].items():
            found[name]["counted_peak_GB"] = row["peak_GB"]
    return found
