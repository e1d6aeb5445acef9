"""Ways to sample a clip, from fast to small, for when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from ..model.denoiser import Denoiser
from ..runtime.activations import activation_bytes
from ..runtime.devices import free_bytes
from ..runtime.streaming import StreamedBlocks
from ..weights import names
from .conditions import Run
from .networks import Networks

TOGETHER = "with the evaluations of a step together"
IN_TURN = "with one evaluation after another"
STREAMED = "with one evaluation after another and blocks streamed from host memory"


def sampling_ways(run: Run, denoiser: Denoiser, networks: Networks, opened: ExitStack) -> dict[str, Callable[[], Run]]:
    """By name, what makes ready for a way and gives its run. What a way opens is closed with `opened`.

    A step's evaluations together are not tried where the device tells beforehand that they would not fit.
    """
    in_turn = replace(run, settings=replace(run.settings, batched=False))

    def stream() -> Run:
        if not isinstance(denoiser.blocks, StreamedBlocks):
            networks.forget(names.DENOISER)  # it is of no use for another film
            blocks = StreamedBlocks(denoiser.blocks.cpu(), networks.options.device)
            opened.callback(blocks.close)
            denoiser.blocks = blocks
        return in_turn

    ways: dict[str, Callable[[], Run]] = {}
    evaluations, free = len(run.settings.branches()), free_bytes(networks.options.device)
    need = activation_bytes(denoiser.config, run.layout.grid, evaluations, run.dtype)
    if run.settings.batched and evaluations > 1 and (free is None or need <= free):
        ways[TOGETHER] = lambda: run
    ways[IN_TURN] = lambda: in_turn
    if not isinstance(denoiser.blocks, StreamedBlocks):
        ways[STREAMED] = stream
    return ways
