"""torch.compile for the networks' blocks: one block is compiled, and all layers and clips share the result.

A block is compiled twice at most for each number of evaluations that are computed together: the last layer, where the
text ends, is shorter. Neither other weights nor other values compile anything again, so a second clip begins at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..errors import InputError
from ..model.scaled import ScaledLinear
from ..model.trunk import Trunk

INDUCTOR = "inductor"


def check_compiler(device: torch.device | str, backend: str | Callable = INDUCTOR, *, eight_bits: bool = False) -> None:
    """Compile next to nothing, and with `eight_bits` what reads such weights: what is missing is told before long work.

    Raises:
        InputError: torch cannot compile for this device here.
    """
    try:
        torch.compile(torch.sin, backend=backend)(torch.zeros(8, device=device))
        if eight_bits:
            layer = ScaledLinear(16, 16, device=device, dtype=torch.bfloat16)
            torch.compile(layer, backend=backend)(torch.zeros(1, 16, device=device, dtype=torch.bfloat16))
    except Exception as error:  # compilers fail in many ways
        cause = getattr(error, "inner_exception", error)  # torch's own says no more than whose it is
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise InputError(
            f"--compile: torch cannot compile for {device} here ({reason[:200]}). Install a C++ compiler (and Triton "
            "for a GPU), or leave --compile out."
        ) from error


def compile_blocks(network: Trunk, backend: str | Callable = INDUCTOR) -> None:
    """Have the blocks' forward compiled at its first call; results are equal to rounding."""
    for block in network.blocks:
        block.compile(backend=backend, dynamic=False)
