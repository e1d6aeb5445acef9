"""The command `train`. The training code is imported only when the command runs."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path

from .interruption import Terminated


def add_train(commands: argparse._SubParsersAction) -> None:
    one = commands.add_parser("train", help="train on videos: a person, a language, or the whole model")
    one.add_argument(
        "configuration", type=Path, metavar="RUN.yaml", help="see docs/training; ready ones: hallo3_core/train/runs"
    )
    one.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as stop.steps=100")
    one.add_argument("--check", action="store_true", help="check all videos and report what is wrong; train nothing")
    one.add_argument("--dry-run", action="store_true", help="say what trains and what memory it takes; train nothing")
    one.add_argument("--fit", type=float, metavar="GB", help="choose the memory switches for a GPU of this size")
    one.set_defaults(run=run_train)


def run_train(options: argparse.Namespace) -> None:
    from ..train.config import read
    from ..train.interrupting import Stopped
    from ..train.loop import train
    from ..train.materials import check
    from ..train.plan import fit, plans

    logging.getLogger("hallo3_core").setLevel(logging.INFO)
    config = read(options.configuration, options.set)
    if options.check:
        sys.stdout.write(check(config) + "\n")
        return
    if options.fit is not None:
        config = fit(config, options.fit)
    if options.dry_run or options.fit is not None:
        for plan in plans(config):
            sys.stdout.writelines(f"{line}\n" for line in plan.lines())
    if options.dry_run:
        return
    try:
        result = train(config)
    except Stopped as stop:
        raise (KeyboardInterrupt if stop.number == signal.SIGINT else Terminated) from stop
    logging.getLogger(__name__).info("%s: %d steps", result.path, result.steps)
