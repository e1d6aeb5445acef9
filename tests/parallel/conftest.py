"""Processes as torchrun starts them, but forked from the test: torch is imported once."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hallo3_core.errors import InputError


@pytest.fixture
def together(tmp_path) -> Callable[[int, Callable[[], Any]], list[Any]]:
    """`together(size, work)` runs work() in `size` processes, and gives what each returned or raised, or its exit code
    when it was ended."""

    def run(size: int, work: Callable[[], Any]) -> list[Any]:
        context, port = multiprocessing.get_context("fork"), free_port()
        results = [tmp_path / f"result_{rank}.pt" for rank in range(size)]
        processes = [
            context.Process(target=_child, args=(rank, size, port, work, results[rank])) for rank in range(size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()  # of processes that wait for each other in vain, torch ends the wait
        return [
            torch.load(result, weights_only=False) if result.exists() else process.exitcode
            for process, result in zip(processes, results, strict=True)
        ]

    return run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _child(rank: int, size: int, port: int, work: Callable[[], Any], result: Path) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    sys.stderr = open(result.with_suffix(".err"), "w", buffering=1)
    try:
        with torch.inference_mode():
            value = work()
    except (InputError, SystemExit, ValueError) as error:
        value = error
    torch.save(value, result)
