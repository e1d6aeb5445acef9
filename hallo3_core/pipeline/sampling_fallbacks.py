"""How sampling a clip falls back to less memory when it runs out."""

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

TOGETHER = "with the model calls of a step in one batch"
IN_TURN = "with one model call after another"
STREAMED = "with one model call after another and blocks streamed from host memory"


def sampling_fallbacks(
    run: Run, denoiser: Denoiser, networks: Networks, opened: ExitStack
) -> dict[str, Callable[[], Run]]:
    """Modes by name: each is a function that prepares the mode and returns its run. `opened` closes what it opens.

    One batch per step is left out if the device has too little free memory for it.
    """
    in_turn = replace(run, settings=replace(run.settings, batched=False))

    def stream() -> Run:
        if not isinstance(denoiser.blocks, StreamedBlocks):
            networks.forget(names.DENOISER)  # streaming empties its blocks
            blocks = StreamedBlocks(denoiser.blocks.cpu(), networks.options.device)
            opened.callback(blocks.close)
            denoiser.blocks = blocks
        return in_turn

    modes: dict[str, Callable[[], Run]] = {}
    calls, free = len(run.settings.branches()), free_bytes(networks.options.device)
    need = activation_bytes(denoiser.config, run.conditions.layout.grid, calls, run.dtype)
    if run.settings.batched and calls > 1 and (free is None or need <= free):
        modes[TOGETHER] = lambda: run
    modes[IN_TURN] = lambda: in_turn
    if not isinstance(denoiser.blocks, StreamedBlocks):
        modes[STREAMED] = stream
    return modes
