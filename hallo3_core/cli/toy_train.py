"""`./dev toy-train`: draws the toy world, trains every network of the toy release on it, and packs them.

To resume an interrupted run, run the same command again. The stages' folder can be deleted once the weights are packed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import InputError, own_command
from ..toy.packed import WEIGHTS
from ..toy.training import ToyPlan, train_toy_release

SECONDS = [name for name in ToyPlan.names() if name.endswith("_seconds")]
THREADS = 2  # on a CPU; more threads gain little at these sizes


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="./dev toy-train", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", type=Path, default=Path("toy-training"), help="where the stages are kept")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the packed weights go")
    parser.add_argument("--films", type=int, help="drawn videos to learn from")
    parser.add_argument("--seed", type=int)
    for name in SECONDS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="S", help="of training on that device")
    args = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    if args.device == "cpu":
        torch.set_num_threads(min(THREADS, os.cpu_count() or 1))
    else:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    plan = ToyPlan.of(args.device).changed(**{name: getattr(args, name) for name in (*SECONDS, "films", "seed")})
    from ..toy.faces.training import train_faces
    from ..train.toy_transformers import train_toy_transformers

    try:
        out = train_toy_release(
            args.folder, args.out, train_faces, train_toy_transformers, device=args.device, plan=plan, on_line=_say
        )
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command to resume\n")
        return 130
    _say(f"{out}: the toy release, packed. Write it out with: {own_command('tiny', 'FOLDER')}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
