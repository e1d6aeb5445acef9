"""torch.compile for the networks' blocks: one block is compiled, and all layers and clips share the result.

A block is compiled at most twice for each batch size: the last layer is different, because it does not compute text.
Other weights or values cause no recompilation, so a second clip starts at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..errors import InputError
from ..model.scaled import ScaledLinear
from ..model.trunk import Trunk

INDUCTOR = "inductor"


def check_compiler(device: torch.device | str, backend: str | Callable = INDUCTOR, *, in_fp8: bool = False) -> None:
    """Compiles a trivial function, and with `in_fp8` an fp8 layer, so that a missing compiler is reported early.

    Raises:
        InputError: torch cannot compile for this device here.
    """
    try:
        torch.compile(torch.sin, backend=backend)(torch.zeros(8, device=device))
        if in_fp8:
            layer = ScaledLinear(16, 16, device=device, dtype=torch.bfloat16)
            torch.compile(layer, backend=backend)(torch.zeros(1, 16, device=device, dtype=torch.bfloat16))
    except Exception as error:  # compilers fail in many ways
        cause = getattr(error, "inner_exception", error)  # torch's own message only names the backend
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise InputError(
            f"--compile: torch cannot compile for {device} here ({reason[:200]}). Install a C++ compiler (and Triton "
            "for a GPU), or run without --compile."
        ) from error


def compile_blocks(network: Trunk, backend: str | Callable = INDUCTOR) -> None:
    """Compiles the blocks' forward at its first call; results agree to rounding."""
    for block in network.blocks:
        block.compile(backend=backend, dynamic=False)
