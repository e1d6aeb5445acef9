"""What streaming costs and saves: a step with all blocks on the device, and with two, in turn in one run.

    python benchmarks/streaming.py [--sizes full] [--device cuda] [--dtype bfloat16] [--evaluations 2] [--runs 5]

Random weights. Both denoisers are the same, so the card needs room for the whole one and two blocks. The last line is
JSON: seconds of each, how much slower streaming is, and bytes of weights on the device.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.presets import PRESETS as SIZES
from benchmarks.presets import build_networks, draw_inputs
from hallo3_core.model.denoiser import Conditions, Denoiser
from hallo3_core.runtime.streaming import streamed


def step_of(denoiser: Denoiser, sizes: str, evaluations: int, device: str, dtype: torch.dtype) -> Callable[[], Tensor]:
    """A step of so many evaluations, with all that is constant prepared."""
    config = SIZES[sizes].denoiser
    given = draw_inputs(SIZES[sizes], device, dtype)
    draw = torch.Generator(device).manual_seed(2)

    def tokens(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, device=device, dtype=dtype)

    conditions = Conditions(
        text=denoiser.embed_text(given.text),
        reference=denoiser.reference_keys_values(given.bank),
        face=denoiser.face_keys_values(tokens(1, SIZES[sizes].face.tokens, config.face)),
        audio=denoiser.audio_keys_values(tokens(1, config.grid.frames, SIZES[sizes].audio.tokens, config.audio)),
    )
    modulation = denoiser.modulate_steps(torch.tensor([500.0], device=device), dtype)
    layout = denoiser.layout(config.grid, dtype)
    latent = given.latent.expand(evaluations, -1, -1, -1, -1)
    return lambda: denoiser(latent, given.concat, conditions, modulation, layout)


def weights_on(denoiser: Denoiser) -> int:
    """Bytes of weights that the device holds while steps run."""
    places = getattr(denoiser.blocks, "places", [])
    own = [p for name, p in denoiser.named_parameters() if not name.startswith("modulation.")]
    return sum(p.nbytes for p in own) + sum(place.nbytes for place in places)


@torch.inference_mode()
def measure(sizes: str, device: str, dtype: torch.dtype, evaluations: int, runs: int) -> dict:
    """Both ways, `runs` times in turn after one to warm up."""
    on_gpu = torch.device(device).type == "cuda"
    resident: nn.Module = build_networks(SIZES[sizes], "cpu", dtype).denoiser
    found: dict[str, dict] = {"resident": {"seconds": []}, "streamed": {"seconds": []}}
    with streamed(copy.deepcopy(resident), device) as other:
        both = {"resident": resident.to(device), "streamed": other}
        steps = {name: step_of(each, sizes, evaluations, device, dtype) for name, each in both.items()}
        same = torch.equal(steps["resident"](), steps["streamed"]())
        for name, denoiser in both.items():
            found[name]["weight_bytes"] = weights_on(denoiser)
        for _ in range(runs):
            for name, step in steps.items():
                start = _now(on_gpu)
                step()
                found[name]["seconds"].append(round(_now(on_gpu) - start, 4))
    for row in found.values():
        row |= {"best": min(row["seconds"]), "median": statistics.median(row["seconds"])}
    slower = found["streamed"]["median"] / found["resident"]["median"] - 1
    return {
        "sizes": sizes,
        "device": torch.cuda.get_device_name(device) if on_gpu else "CPU",
        "dtype": str(dtype).removeprefix("torch."),
        "evaluations": evaluations,
        **found,
        "slower": round(slower, 3),
        "equal": same,
    }


def _now(on_gpu: bool) -> float:
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", choices=SIZES, default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--evaluations", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    result = measure(given.sizes, given.device, getattr(torch, given.dtype), given.evaluations, given.runs)
    if given.output:
        given.output.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
