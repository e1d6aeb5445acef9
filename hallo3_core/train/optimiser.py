"""Gradient clipping, AdamW, moving average and learning rate schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import require
from ..model.config import Shape
from .trainable import decays


@dataclass(frozen=True)
class Rates:
    """The learning rate schedule; the defaults are the original's. Steps count from 1.

    Up to step `slow_steps` the warm-up is capped at `slow_peak` x `peak`; after `warmup_steps` the rate falls linearly
    from `peak` to `last` x `peak` at step `total`. With `decay_from`, a fraction of the run, it stays at the peak until
    then.
    """

    peak: float = 1e-5
    warmup_steps: int = 300
    slow_steps: int = 100
    slow_peak: float = 0.05
    last: float = 0.01
    decay_from: float | None = None

    def at(self, step: int, total: int, share: float | None = None) -> float:
        """The rate at step `step` of `total`. `share` (0..1) is the fraction of the run that has passed, if the run is
        limited by time instead of steps."""
        if step <= self.warmup_steps:
            rising = self.peak * step / self.warmup_steps
            return min(self.peak * self.slow_peak, rising) if step <= self.slow_steps else rising
        if share is None:
            start = self.warmup_steps if self.decay_from is None else self.decay_from * total
            passed = (step - start) / max(1, total - start)
        else:
            start = self.decay_from or 0.0
            passed = (share - start) / (1 - start)
        return self.peak * (1 - (1 - self.last) * min(1.0, max(0.0, passed)))


@dataclass(frozen=True)
class Updating:
    """How weights are updated; the defaults are the original's."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 1e-4
    clip: float = 0.1
    average: float = 0.9999  # the moving average's largest decay; 0: no average


def make_optimiser(
    parameters: Sequence[Tensor], shapes: Sequence[Shape], updating: Updating, kind: str = "adamw"
) -> torch.optim.Optimizer:
    """Makes AdamW with decoupled weight decay on matrices and kernels only.

    `shapes` are those of the whole parameters, even if `parameters` are shards. kind "adamw8bit" keeps 8-bit moments.

    Raises:
        InputError: neither torchao nor bitsandbytes is installed.
    """
    settings = dict(lr=0.0, betas=updating.betas, eps=updating.eps)
    pairs = list(zip(parameters, shapes, strict=True))
    groups = [
        {"params": [p for p, shape in pairs if decays(shape)], "weight_decay": updating.weight_decay},
        {"params": [p for p, shape in pairs if not decays(shape)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if kind == "adamw8bit":
        return _adamw_8bit()(groups, **settings)
    return torch.optim.AdamW(groups, fused=all(p.is_cuda for p in parameters), **settings)


def _adamw_8bit() -> type[torch.optim.Optimizer]:
    try:
        from torchao.optim import AdamW8bit

        return AdamW8bit
    except ImportError:
        return require("bitsandbytes", "bitsandbytes", "the 8-bit optimiser").optim.AdamW8bit


def total_norm(gradients: Sequence[Tensor], summed: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
    """Norm of all gradients together; `summed` sums a tensor over the processes that hold shards."""
    if not gradients:
        return torch.zeros(())
    squares = torch.stack(torch._foreach_norm(list(gradients))).square().sum()
    return summed(squares).sqrt()


def clip_(gradients: Sequence[Tensor], norm: Tensor, largest: float) -> None:
    """Multiplies every gradient by ``min(1, largest / (norm + 1e-6))``, in place."""
    torch._foreach_mul_(list(gradients), (largest / (norm + 1e-6)).clamp(max=1.0))


def average_decay(updates: int, largest: float) -> float:
    """The moving average's decay at update `updates`, counted from 1: 2/11, 3/12, .. `largest`."""
    return min(largest, (1 + updates) / (10 + updates))


@torch.no_grad()
def update_average(average: Sequence[Tensor], parameters: Sequence[Tensor], decay: float) -> None:
    """``e = d e + (1 - d) p``, in place."""
    torch._foreach_lerp_(list(average), list(parameters), 1 - decay)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate; torchao's optimisers keep it in a tensor, since they are compiled."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
