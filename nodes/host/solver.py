"""The core's solvers as the host's SAMPLER, and its schedule as SIGMAS."""

from __future__ import annotations

import math
from typing import Any

import comfy.samplers
import numpy as np
import torch
from torch import Tensor

from ...hallo3_core.errors import InputError
from ...hallo3_core.sampling.noise import ClipNoise
from ...hallo3_core.sampling.sampler import sample
from ...hallo3_core.sampling.schedule import TRAINING_STEPS, Schedule, nearest, step_timesteps, zero_terminal_alphas

# Sigma of pure noise: the host divides by a = 1 / sqrt(1 + sigma^2), so a cannot be 0. At 1e5 it is close enough to
# 0, and ComfyUI's samplers, whose state is this large in float32, keep enough precision for the next level (at 1e8
# they lose up to half the result).
PURE_NOISE = 1e5


def sigmas_of(schedule: Schedule) -> Tensor:
    """Converts the schedule to the host's sigmas, sqrt(1 - a^2) / a: N + 1 values that end in 0."""
    return torch.tensor([PURE_NOISE if a == 0 else math.sqrt(1 - a * a) / a for a in schedule.alphas])


def timesteps_of(sigmas: Tensor) -> list[int] | None:
    """The timestep of each step if the sigmas are one of our schedules or a part of one, else None.

    The host would take the nearest of its 1000 levels, but a schedule of N steps is rescaled on its own.
    """
    alphas = torch.rsqrt(1 + sigmas[:-1].double().cpu() ** 2).numpy()
    for steps in range(len(alphas), TRAINING_STEPS + 1):
        grid = zero_terminal_alphas(steps)
        start = nearest(alphas[0], grid)
        piece = slice(start, start + len(alphas))
        if len(grid[piece]) == len(alphas) and np.allclose(grid[piece], alphas, rtol=1e-5, atol=2 / PURE_NOISE):
            return step_timesteps(steps)[piece].tolist()
    return None


def last_part(sigmas: Tensor, part: float) -> Tensor:
    """The end of a run: the last `part` of its steps, a fraction above 0 and at most 1, at least one step.

    Raises:
        InputError: `part` is out of range.
    """
    if not 0 < part <= 1:
        raise InputError(f"part is {part:g}: choose more than 0, at most 1 (all steps)")
    steps = len(sigmas) - 1
    return sigmas[steps - math.ceil(steps * part) :]


class ExactSolver(comfy.samplers.Sampler):
    """Runs the core's solver on the host's model, in variance-preserving form and with the core's own noise."""

    def __init__(self, schedule: Schedule, name: str, noise: ClipNoise):
        """name: one of SAMPLERS."""
        self.schedule, self.name, self.noise = schedule, name, noise

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict,
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Denoises `noise`, the initial state, to a clean latent ``b 16 t h w``."""
        if denoise_mask is not None:
            raise InputError("a noise mask cannot be used with this sampler: remove it from the latent")
        steps = len(self.schedule)

        def predict_clean(x: Tensor, step: int) -> Tensor:
            sigma = sigmas[step]
            return model_wrap(x * torch.sqrt(1 + sigma * sigma), sigma.expand(x.shape[0]), **extra_args)

        def report(step: int, clean: Tensor) -> None:
            if callback is not None:
                callback(step, clean, clean, steps)

        return sample(
            noise,
            self.schedule,
            predict_clean,
            self.name,
            draw_noise=lambda step: self.noise.step(step, noise.shape).to(noise),
            on_step=report,
        )
