"""A whole clip of the released length, phase by phase: seconds and peak memory, with random weights.

    python benchmarks/clip.py [--preset cpu-medium] [--steps 2] [--device cpu] [--dtype float32] [--compile]
                              [--weights resident] [--in-turn]

Each network is loaded only for its phase, as on the command line; making its random weights is not timed. The last
line is JSON. Peak memory is that of the GPU's tensors, or on Linux the process's resident memory, including weights.
`--device fake` needs no GPU (`tools/testbed/fake_device.py`): in a minute it counts memory, operations and the host's
waits for sizes such as `full`, but no times.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from hallo3_core.pipeline.options import Settings
from tools.testbed.clip_phases import RESIDENT, WEIGHTS, computing, measure
from tools.testbed.measuring import machine, report
from tools.testbed.presets import PRESETS


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu-medium")
    parser.add_argument("--steps", type=int, default=2, help="of two model calls each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--weights", choices=WEIGHTS, default=RESIDENT, help="where and how the blocks' weights are")
    parser.add_argument("--in-turn", action="store_true", help="the model calls of a step one after another")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--output", type=Path, help="write the result to this file too")
    args = parser.parse_args(arguments)
    dtype, settings = getattr(torch, args.dtype), Settings(steps=args.steps, batched=not args.in_turn)
    with computing(args.device):
        phases = measure(
            PRESETS[args.preset], settings, args.device, dtype, weights=args.weights, compiled=args.compile
        )
        head = machine(args.device, dtype)
    chosen = {name: getattr(args, name) for name in ("preset", "steps", "weights", "in_turn", "compile")}
    report({"phases": phases, **chosen, **head}, args.output)


if __name__ == "__main__":
    main()
