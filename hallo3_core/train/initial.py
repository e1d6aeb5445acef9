"""Initial values of new parameters."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

ZERO = ("modulation.blocks.", "head_modulation.", "head.")  # in a network trained from scratch


def initial(name: str, shape: tuple[int, ...], kind: str, layers: int, generator: torch.Generator) -> Tensor:
    """Returns a new parameter, float32.

    kind "original": normal with standard deviation 0.02, attention's output matrices 0.02 / sqrt(2 layers), as the
    original initialises new modules; "projector": PyTorch's default; "fan_in": normal, 1 / sqrt(inputs); "from
    nothing": like fan_in, with modulation and head at zero, so that every layer starts as the identity. Norms start at
    1 and 0, biases at 0.
    """
    inputs = prod(shape[1:])
    leaf = name.rpartition(".")[2]
    if "norm" in name:
        return torch.ones(shape) if leaf == "weight" else torch.zeros(shape)
    if name.endswith("_positions"):
        return torch.randn(shape, generator=generator) * 0.02
    if kind == "projector":
        bound = inputs**-0.5 if leaf == "weight" else 0.0
        return torch.empty(shape).uniform_(-bound, bound, generator=generator) if bound else torch.zeros(shape)
    if leaf == "bias" or (kind == "from nothing" and name.startswith(ZERO)):
        return torch.zeros(shape)
    deviation = inputs**-0.5
    if kind == "original":
        deviation = 0.02 / (2 * layers) ** 0.5 if name.endswith("attention.out.weight") else 0.02
    return torch.randn(shape, generator=generator) * deviation
