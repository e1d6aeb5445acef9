"""What a card makes of the released model: seconds a step of 1, 2 and 4 evaluations, and peak memory, by mode.

    python benchmarks/card.py [--preset full] [--device cuda] [--dtype bfloat16] [--runs 5] [--modes eager compiled ...]

Random weights, made on the device. In the same run the rate of one large matrix product is measured; a step's products
at that rate would be the roofline, and `roofline_share` is how near a step comes. Writes `results/<device>.json` beside
this file (or --output), and the same as the last line. Modes: `eager`; `compiled`; `in turn`, the evaluations of a step
one after another; `fp8`, the blocks' matrices kept in eight bits; `streamed`, the blocks in pinned host memory.
What the card has no room for is null.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import in_turn, machine, peak_gb, report, reset_peak
from benchmarks.presets import PRESETS, Networks, Preset, build_denoiser, build_projectors, draw_inputs, tell
from hallo3_core.runtime.compiling import compile_blocks
from hallo3_core.runtime.streaming import streamed

EAGER, COMPILED, IN_TURN, FP8, STREAMED = MODES = ("eager", "compiled", "in turn", "fp8", "streamed")
EVALUATIONS = (1, 2, 4)
MATRIX = {"cuda": 8192, "cpu": 1024}  # rows, columns and depth of the product whose rate is measured


def matmul_rate(device: str, dtype: torch.dtype, runs: int) -> float:
    """The best rate of one large product, in operations (two a multiplication) a second."""
    size = MATRIX.get(torch.device(device).type, MATRIX["cpu"])
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    found = in_turn({"product": lambda: a @ b}, max(runs, 10), device)
    return 2 * size**3 / found["product"]["best"]


def measure(sizes: Preset, mode: str, device: str, dtype: torch.dtype, runs: int) -> dict[int, dict | None]:
    """Seconds, peak memory and operations of a step, by its number of evaluations; None: out of memory."""
    projectors = build_projectors(sizes, device, dtype)
    denoiser = build_denoiser(sizes, "cpu" if mode == STREAMED else device, dtype, eight_bits=mode == FP8)
    with streamed(denoiser, device) if mode == STREAMED else nullcontext():
        return measure_steps(sizes, Networks(denoiser, *projectors), mode, device, dtype, runs)


def measure_steps(
    sizes: Preset, networks: Networks, mode: str, device: str, dtype: torch.dtype, runs: int
) -> dict[int, dict | None]:
    """The same, of networks that are in place."""
    denoiser = networks.denoiser
    layout = denoiser.layout(sizes.denoiser.grid, dtype)
    modulation = denoiser.modulate_steps(torch.tensor([500.0], device=device), dtype)
    given = [draw_inputs(sizes, device, dtype, seed) for seed in range(max(EVALUATIONS))]
    told = {n: tell(networks, given[:n]) for n in {1, *EVALUATIONS}}
    for leaving in (networks.audio, networks.face, denoiser.modulation):  # as in a film: not needed while steps run
        leaving.to("meta")
    if mode == COMPILED:
        compile_blocks(denoiser)

    def evaluate(count: int) -> Callable[[], Tensor]:
        latent = given[0].latent.expand(count, -1, -1, -1, -1)
        return lambda: denoiser(latent, given[0].concat, told[count], modulation, layout)

    def step(count: int) -> Callable[[], object]:
        return (lambda: [evaluate(1)() for _ in range(count)]) if mode == IN_TURN else evaluate(count)

    found = {}
    for count in EVALUATIONS:
        work = step(count)
        try:
            work()  # compiles, and finds its kernels
            reset_peak(device)
            work()
            found[count] = {"peak_GB": peak_gb(device), **in_turn({"step": work}, runs, device)["step"]}
            if mode == EAGER:
                with FlopCounterMode(display=False) as counter:
                    work()
                found[count]["operations"] = counter.get_total_flops()
        except torch.OutOfMemoryError:
            found[count] = None
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--output", type=Path, help="the file to write; default: results/<device>.json")
    given = parser.parse_args(arguments)
    dtype = getattr(torch, given.dtype)
    modes = dict.fromkeys((EAGER, *given.modes))  # eager first: it counts the operations
    with torch.inference_mode():
        rate = matmul_rate(given.device, dtype, given.runs)
        steps = {mode: measure(PRESETS[given.preset], mode, given.device, dtype, given.runs) for mode in modes}
    for found in steps.values():
        for count, figures in found.items():
            if figures is None or steps[EAGER][count] is None:
                continue
            roofline = steps[EAGER][count]["operations"] / rate
            figures["roofline_share"] = round(roofline / figures["best"], 3)
    head = machine(given.device, dtype)
    result = {"preset": given.preset, **head, "matmul_TFLOP_per_second": round(rate / 1e12, 3), "steps": steps}
    name = re.sub(r"[^a-z0-9]+", "-", f"{head['device']}-{given.preset}".lower()).strip("-")
    report(result, given.output or Path(__file__).parent / "results" / f"{name}.json")


if __name__ == "__main__":
    main()
