"""A batch file's films on a Ray cluster: a pool of actors, each of which runs the command line's `batch`.

    python -m pip install ray
    python docs/examples/ray_batch.py --workers 4 --cards-each 1 jobs.txt --models DIR --output-dir FOLDER

All further options are those of `batch`. Every machine of the cluster needs this repository, the release and the films'
folder under the same names. The actors share the films by claims (docs/parallel.md): one that dies costs no film.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hallo3_core.errors import InputError, require  # noqa: E402


class Worker:
    """One worker of several; Ray gives it a process, and GPUs if asked for."""

    def run(self, worker: int, workers: int, words: Sequence[str]) -> int:
        """Run `batch` as this worker, and give its exit code."""
        from hallo3_core.cli.main import main

        os.environ.update(RANK=str(worker), WORLD_SIZE=str(workers))
        try:
            return main(["batch", *words])
        except SystemExit as stop:  # argparse's
            return stop.code


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every film is there, as far as the workers that lived can tell."""
    parser = argparse.ArgumentParser(description="batch on a Ray cluster; all further options are those of batch")
    parser.add_argument("--workers", type=int, default=1, help="how many actors")
    parser.add_argument("--cards-each", type=float, default=0, help="GPUs per actor; 0: the CPU")
    args, words = parser.parse_known_args(arguments)
    try:
        ray = require("ray", "ray", "running on a Ray cluster")
    except InputError as error:
        parser.exit(2, f"error: {error}\n")
    ray.init(runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})
    actor = ray.remote(num_gpus=args.cards_each)(Worker)
    running = [actor.remote().run.remote(worker, args.workers, words) for worker in range(args.workers)]
    codes = []
    for result in running:
        try:
            codes.append(ray.get(result))
        except ray.exceptions.RayActorError as error:
            sys.stderr.write(f"a worker died, and the others took over: {str(error).splitlines()[0]}\n")
    ray.shutdown()
    return max(codes, default=2)


if __name__ == "__main__":
    sys.exit(main())
