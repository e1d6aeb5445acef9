"""Half precision on a CPU: checked against float32 before use.

torch 2.13 computes some bfloat16 convolutions wrong on processors with AMX (pytorch#163347, #169688): one with 24
channels, 2 groups and kernel size 16 is off by 90 %, others are correct to rounding. It depends on the shapes, so the
layers of a run are checked with the shapes that they will process.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import InputError

# relative root mean square error; rounding alone gives a tenth of it
LIMIT = {torch.bfloat16: 2e-2, torch.float16: 2e-3}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Call(NamedTuple):
    """A convolution layer and the shape of its input."""

    layer: nn.Module
    shape: torch.Size


def convolution_calls(network: nn.Module, run: Callable[[], object]) -> list[Call]:
    """The distinct convolutions that `run` calls in a network on the meta device, where running costs nothing."""
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
    """Relative error of this CPU's result in `dtype` against float32, for noise of the call's shape.

    Only as many frames are computed as one output frame needs, so that memory stays close to the run's own.
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
    """Raises InputError if this CPU computes one of the calls wrong in `dtype`."""
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
