"""The cost of a clip under each speed/quality setting, against the lossless one: model calls, time, difference.

    python benchmarks/choices.py [--sizes toy|cpu-medium|full] [--device cpu] [--dtype float32] [--runs 5]

The weights are random. Skipped calls, savings and the latent's change hold for these networks only; they do not show
how a video looks with the released weights. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.presets import PRESETS as SIZES
from benchmarks.presets import build_networks, draw_inputs, round_to_fp8
from hallo3_core.cli import presets
from hallo3_core.inputs.image import plan_framing
from hallo3_core.inputs.portrait import Portrait
from hallo3_core.model.config import Grid
from hallo3_core.pipeline.clip import sample_clip
from hallo3_core.pipeline.conditions import ClipCalls, prepare_run
from hallo3_core.pipeline.options import Settings
from hallo3_core.runtime.fp8_matmul import has_fp8_matmuls, use_fp8_matmuls
from hallo3_core.sampling.guidance import Guidance
from hallo3_core.sampling.noise import SeededNoise
from hallo3_core.sampling.sampler import DPMPP_2M

LOSSLESS, FEWER = "lossless", "50 steps of dpmpp-2m"


@dataclass(frozen=True)
class Choice:
    """Settings, and the choice to compare with (None if the noise or the film differs, so there is none)."""

    settings: Settings
    against: str | None = None
    fp8: str | None = None
    native: bool = False


def choices() -> dict[str, Choice]:
    """All measured choices by name; the first is lossless."""
    plain, deterministic = Settings(), Settings(sampler=DPMPP_2M)
    found = {
        LOSSLESS: Choice(plain),
        "guidance on the first 0.6": Choice(replace(plain, guidance=Guidance(stop=0.6)), LOSSLESS),
        "guidance from 0.2 to 0.8": Choice(replace(plain, guidance=Guidance(start=0.2, stop=0.8)), LOSSLESS),
        "step cache 0.1": Choice(replace(plain, cache=0.1), LOSSLESS),
        "fp8 weights": Choice(plain, LOSSLESS, fp8="weights"),
        "fp8 products": Choice(plain, LOSSLESS, fp8="products"),
        "native square": Choice(plain, native=True),
        FEWER: Choice(deterministic),
    }
    for threshold in (0.05, 0.1, 0.2):
        found[f"{FEWER}, step cache {threshold:g}"] = Choice(replace(deterministic, cache=threshold), FEWER)
    for steps in (30, 20, 10):
        found[f"{steps} steps of dpmpp-2m"] = Choice(replace(deterministic, steps=steps), FEWER)
    for name, preset in presets.PRESETS.items():
        guidance = Guidance(start=preset.guidance_start, stop=preset.guidance_stop)
        settings = Settings(preset.steps, guidance, preset.sampler, cache=preset.cache)
        found[f"preset {name}"] = Choice(settings, native=preset.framing == "native")
    return found


class Bench:
    """A denoiser in three forms, and the clips sampled with it."""

    def __init__(self, sizes: str, device: str, dtype: torch.dtype):
        self.sizes, self.device, self.dtype = SIZES[sizes], device, dtype
        self.networks = build_networks(self.sizes, device, dtype)
        self.denoisers = {None: self.networks.denoiser}
        for kind in ("weights", "products"):
            self.denoisers[kind] = round_to_fp8(self.networks.denoiser)
        use_fp8_matmuls(self.denoisers["products"])
        self.samples = 0
        for denoiser in self.denoisers.values():
            denoiser.register_forward_hook(self._count)

    def _count(self, module, args, output) -> None:
        self.samples += len(output)

    def clip(self, choice: Choice) -> tuple[torch.Tensor, float, float, int]:
        """Samples a clip; returns its latent, the wall and CPU seconds of its steps, and the number of model calls."""
        grid = self.sizes.denoiser.grid
        if choice.native:
            side = min(grid.rows, grid.columns)
            grid = Grid(grid.frames, side, side)
        inputs = draw_inputs(
            replace(self.sizes, denoiser=replace(self.sizes.denoiser, grid=grid)), self.device, self.dtype
        )
        height, width = 16 * grid.rows, 16 * grid.columns
        pixels = torch.zeros(1, 3, height, width, device=self.device, dtype=self.dtype)
        portrait = Portrait(pixels, plan_framing(height, width, height, width), inputs.bank)
        denoiser = self.denoisers[choice.fp8]
        run = prepare_run(
            denoiser,
            portrait,
            choice.settings,
            text=inputs.text,
            face_tokens=self.networks.face(inputs.face),
            null_audio_tokens=self.networks.audio(torch.zeros_like(inputs.audio)),
            dtype=self.dtype,
        )
        tokens = self.networks.audio(inputs.audio)
        self.samples = 0
        self._wait()
        start, busy = time.perf_counter(), time.process_time()
        latent = sample_clip(ClipCalls(denoiser, run, inputs.concat, tokens), run, inputs.concat, SeededNoise(0, 0))
        self._wait()
        return latent, time.perf_counter() - start, time.process_time() - busy, self.samples

    def _wait(self) -> None:
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Root mean square of the difference, relative to that of `expected`."""
    return float((found - expected).norm() / expected.norm())


@torch.inference_mode()
def measure(sizes: str, device: str, dtype: torch.dtype, runs: int, wanted: dict[str, Choice]) -> dict:
    """Measures every choice `runs` times, interleaved, after a warm-up round."""
    bench = Bench(sizes, device, dtype)
    seconds: dict[str, list[float]] = {name: [] for name in wanted}
    busy: dict[str, list[float]] = {name: [] for name in wanted}
    latents, samples = {}, {}
    for turn in range(runs + 1):
        for name, choice in wanted.items():
            latents[name], took, worked, samples[name] = bench.clip(choice)
            if turn:
                seconds[name].append(took)
                busy[name].append(worked)
        sys.stderr.write(f"round {turn} of {runs}\n")
    # On a CPU we compare CPU seconds, which other programs do not affect.
    counted = seconds if torch.device(device).type == "cuda" else busy
    best = {name: min(times) for name, times in counted.items()}
    result = {
        name: {
            "model_calls": samples[name],
            "seconds": [round(s, 4) for s in seconds[name]],
            "best": round(min(seconds[name]), 4),
            "median": round(statistics.median(seconds[name]), 4),
            "processor": [round(s, 4) for s in busy[name]],
            "speedup": round(best[LOSSLESS] / best[name], 2),
            "difference": choice.against and round(difference(latents[name], latents[choice.against]), 4),
            "against": choice.against,
        }
        for name, choice in wanted.items()
    }
    return {
        "sizes": sizes,
        "config": asdict(SIZES[sizes].denoiser),
        "device": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "fp8 products": "computed" if has_fp8_matmuls(device) else "emulated: their time means nothing",
        "choices": result,
    }


def device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", choices=SIZES, default="toy")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    result = measure(args.sizes, args.device, getattr(torch, args.dtype), args.runs, choices())
    for name, row in result["choices"].items():
        distance = "" if row["against"] is None else f", {100 * row['difference']:.1f} % from {row['against']}"
        sys.stdout.write(
            f"{name}: {row['model_calls']} model calls, best {row['best']:.2f} s, {row['speedup']}x{distance}\n"
        )
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
