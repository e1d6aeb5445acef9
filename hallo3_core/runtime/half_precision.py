"""Half precision on a CPU: compared with float32 before it is trusted.

torch 2.13 computes some bfloat16 convolutions wrong on processors with AMX (pytorch#163347, #169688): one of 24
channels in 2 groups with a kernel of 16 is off by 90 %, others are right to rounding. Which ones depends on their
shapes, so the layers of a run are compared on the shapes that they will see.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import InputError

LIMIT = {torch.bfloat16: 2e-2, torch.float16: 2e-3}  # relative root mean square error; rounding leaves a tenth of it
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Call(NamedTuple):
    """A convolution, with the shape of its input."""

    layer: nn.Module
    shape: torch.Size


def convolution_calls(network: nn.Module, run: Callable[[], object]) -> list[Call]:
    """The different convolutions that `run` calls in a network on the meta device, where running costs nothing."""
    calls: dict[tuple, Call] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        settings = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
        calls.setdefault((layer.weight.shape, inputs[0].shape, settings), Call(layer, inputs[0].shape))

    hooks = [m.register_forward_pre_hook(note) for m in network.modules() if isinstance(m, CONVOLUTIONS)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return list(calls.values())


def half_precision_error(call: Call, dtype: torch.dtype) -> float:
    """How far this CPU's result in `dtype` is off the one in float32, relative to it, for noise of the call's shape.

    Of several frames only as many are computed as one result needs: memory stays near that of the run.
    """
    layer, shape = call.layer, list(call.shape)
    if isinstance(layer, nn.Conv3d):
        shape[2] = min(shape[2], layer.kernel_size[0])
    elif isinstance(layer, nn.Conv2d):
        shape[0] = 1
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=draw).to(dtype)
    weight = torch.randn(layer.weight.shape, generator=draw).to(dtype)
    kernel = {nn.Conv1d: torch.conv1d, nn.Conv2d: torch.conv2d, nn.Conv3d: torch.conv3d}
    convolve = next(function for kind, function in kernel.items() if isinstance(layer, kind))
    settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
    exact = convolve(x.float(), weight.float(), None, *settings)
    found = convolve(x, weight, None, *settings).float()
    error = float((found - exact).norm() / exact.norm())
    return error if error == error else float("inf")


def check_half_precision(calls: list[Call], dtype: torch.dtype) -> None:
    """Raises InputError where this CPU computes one of the calls wrong in `dtype`."""
    for call in calls:
        error = half_precision_error(call, dtype)
        if error > LIMIT[dtype]:
            name = str(dtype).removeprefix("torch.")
            raise InputError(
                f"--dtype: on this CPU ({processor()}) torch {torch.__version__} computes a convolution wrong in "
                f"{name} ({call.layer}, {error:.0%} off): choose --dtype fp32"
            )


def processor() -> str:
    """The processor's name, for messages."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
