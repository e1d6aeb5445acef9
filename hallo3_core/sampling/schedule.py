"""The zero-terminal-SNR schedule, rescaled for each list of steps as in the released sampler.

``a = sqrt(alpha_bar)`` throughout: 0 is pure noise, 1 a clean latent. Source: Lin et al., "Common Diffusion Noise
Schedules and Sample Steps are Flawed", applied to the list of steps rather than to all 1000.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputError

TRAINING_STEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012


@dataclass(frozen=True)
class Schedule:
    """The steps of a run, noise first.

    timesteps: N integers, the network's input; alphas: N + 1 values from 0 to 1, the solver's grid; wrapped: N values,
    the nearest ones of the 1000-step list, used only to turn velocity into x0.
    """

    timesteps: tuple[int, ...]
    alphas: tuple[float, ...]
    wrapped: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.timesteps)


def alphas_cumprod() -> np.ndarray:
    """alpha_bar of the 1000 training steps, float64."""
    betas = np.linspace(BETA_START**0.5, BETA_END**0.5, TRAINING_STEPS, dtype=np.float64) ** 2
    return np.cumprod(1 - betas)


def step_timesteps(steps: int) -> np.ndarray:
    """The `steps` timesteps of a run, noise first: 50 -> 999, 979, .. 19."""
    return np.linspace(TRAINING_STEPS - 1, 0, steps, endpoint=False).astype(int)


def zero_terminal_alphas(steps: int) -> np.ndarray:
    """``a`` of each step, float32, noise first: shifted and scaled within the list so that the first is exactly 0."""
    a = np.sqrt(alphas_cumprod()[step_timesteps(steps)]).astype(np.float32)
    if steps == 1:
        return np.zeros(1, np.float32)
    noisiest, cleanest = a[0], a[-1]
    return (a - noisiest) * (cleanest / (cleanest - noisiest))


def nearest(a: float, grid: np.ndarray) -> int:
    """Index of the entry of `grid` nearest to `a`."""
    return int(np.abs(grid - np.float32(a)).argmin())


def check_steps(steps: int) -> None:
    """Raises InputError unless a run can have so many steps."""
    if not 1 <= steps <= TRAINING_STEPS:
        raise InputError(f"steps is {steps}: choose 1 to {TRAINING_STEPS} (the original uses 50)")


def make_schedule(steps: int) -> Schedule:
    """The schedule of a run of `steps` steps, 1 to 1000.

    Raises:
        InputError: the number of steps is out of range.
    """
    check_steps(steps)
    alphas = zero_terminal_alphas(steps)
    grid = zero_terminal_alphas(TRAINING_STEPS)
    return Schedule(
        timesteps=tuple(int(t) for t in step_timesteps(steps)),
        alphas=(*(float(a) for a in alphas), 1.0),
        wrapped=tuple(float(grid[nearest(a, grid)]) for a in alphas),
    )
