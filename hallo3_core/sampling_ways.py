"""Ways to sample a clip, from fast to small, for when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from .checkpoints import names
from .model.denoiser import Denoiser
from .networks import Networks
from .pipeline import Run
from .streaming import StreamedBlocks

TOGETHER = "with the evaluations of a step together"
IN_TURN = "with one evaluation after another"
STREAMED = "with one evaluation after another and blocks streamed from host memory"


def sampling_ways(run: Run, denoiser: Denoiser, networks: Networks, opened: ExitStack) -> dict[str, Callable[[], Run]]:
    """By name, what makes ready for a way and gives its run. What a way opens is closed with `opened`."""
    in_turn = replace(run, settings=replace(run.settings, batched=False))

    def stream() -> Run:
        if not isinstance(denoiser.blocks, StreamedBlocks):
            networks.forget(names.DENOISER)  # it is of no use for another film
            blocks = StreamedBlocks(denoiser.blocks.cpu(), networks.options.device)
            opened.callback(blocks.close)
            denoiser.blocks = blocks
        return in_turn

    ways: dict[str, Callable[[], Run]] = {}
    if run.settings.batched and len(run.settings.branches()) > 1:
        ways[TOGETHER] = lambda: run
    ways[IN_TURN] = lambda: in_turn
    if not networks.options.stream:
        ways[STREAMED] = stream
    return ways
