"""One model call of the denoiser: as in the original (`plain.py`) and as in this project, interleaved.

    python benchmarks/step.py [--preset cpu-medium] [--runs 5] [--device cpu] [--dtype float32] [--compile]

Both use the same random weights and inputs, and are first checked for equality. The last line is JSON: all seconds of
each path, the best and the median. `projectors` is the part of `plain` that runs the audio and face projectors, so
the speed-up of the blocks alone can be read too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from hallo3_core.runtime.compiling import compile_blocks
from tools.testbed import plain
from tools.testbed.measuring import in_turn, machine, report
from tools.testbed.presets import PRESETS, build_networks, conditions_of, draw_inputs, twin

TIMESTEP = 500.0
# for results of about unit magnitude
LARGEST_DIFFERENCE = {torch.float32: 2e-5, torch.bfloat16: 0.1, torch.float16: 0.02}


def measure(preset: str, runs: int, device: str, dtype: torch.dtype, compiled: bool) -> dict:
    sizes = PRESETS[preset]
    networks, inputs = build_networks(sizes, device, dtype), draw_inputs(sizes, device, dtype)
    denoiser = networks.denoiser
    layout = denoiser.layout(sizes.denoiser.grid, dtype)
    conditions = conditions_of(networks, [inputs])
    modulation = denoiser.modulate_steps(torch.tensor([TIMESTEP], device=device), dtype)
    paths = {
        "plain": lambda: plain.velocity(networks, inputs, inputs.latent, TIMESTEP, layout),
        "fast": lambda: denoiser(inputs.latent, inputs.concat, conditions, modulation, layout),
        "projectors": lambda: (networks.audio(inputs.audio), networks.face(inputs.face)),
    }
    difference = (paths["plain"]().float() - paths["fast"]().float()).abs().max().item()
    if not difference <= LARGEST_DIFFERENCE[dtype]:
        raise SystemExit(f"the two paths differ by {difference:.1e}: nothing was measured")
    if compiled:
        other = twin(denoiser)
        compile_blocks(other)
        paths["compiled"] = lambda: other(inputs.latent, inputs.concat, conditions, modulation, layout)
    found = in_turn(paths, runs, device)
    head = {"preset": preset, **machine(device, dtype), "largest_difference": difference}
    return {**found, **head, "plain_over_fast": ratios(found)}


def ratios(found: dict[str, dict]) -> dict[str, float]:
    """Speed-ups by each measure, also without the projectors, which `plain` runs at every step."""
    kinds = [kind for kind in ("best", "median", "cpu_best", "cpu_median") if kind in found["plain"]]
    plain, fast, projectors = ({kind: found[path][kind] for kind in kinds} for path in ("plain", "fast", "projectors"))
    whole = {kind: round(plain[kind] / fast[kind], 3) for kind in kinds}
    blocks = {f"{kind}_without_projectors": round((plain[kind] - projectors[kind]) / fast[kind], 3) for kind in kinds}
    return whole | blocks


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu-medium")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="measure the same with compiled blocks too")
    parser.add_argument("--output", type=Path, help="write the result to this file too")
    args = parser.parse_args(arguments)
    with torch.inference_mode():
        result = measure(args.preset, args.runs, args.device, getattr(torch, args.dtype), args.compile)
    report(result, args.output)


if __name__ == "__main__":
    main()
