"""Checking that the values of a step are finite."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError


class NotFinite(InputError):
    """Values of the latent are NaN or infinite."""

    def __init__(self, step: int, steps: int):
        super().__init__(f"step {step + 1} of {steps}: the latent holds values that are NaN or infinite.")


def check_finite(clean: Tensor, step: int, steps: int) -> None:
    """Raises NotFinite unless every value of a step's x0 is finite. Its cost is negligible."""
    if not torch.isfinite(clean).all():
        raise NotFinite(step, steps)
