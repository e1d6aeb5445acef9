"""Solvers over a schedule, in VP form: ``x = a x0 + sqrt(1 - a^2) noise``. The state is float32.

Sources: SDE-DPM-Solver++(2M), Lu et al. 2022, as the released sampler applies it; its deterministic form; DDIM, Song
et al. 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from .finite import check_finite
from .schedule import Schedule

SDE_DPMPP_2M, DPMPP_2M, DDIM = "sde-dpmpp-2m", "dpmpp-2m", "ddim"
SAMPLERS = (SDE_DPMPP_2M, DPMPP_2M, DDIM)

PredictClean = Callable[[Tensor, int], Tensor]  # state and step -> x0
DrawNoise = Callable[[int], Tensor]  # step -> normal noise of the state's shape
OnStep = Callable[[int, Tensor], None]  # step, x0: progress, preview, cancel


def clean_from_velocity(x: Tensor, velocity: Tensor, q: float) -> Tensor:
    """x0 of a velocity-predicting network at ``a = q``, float32."""
    return q * x - math.sqrt(1 - q * q) * velocity.to(x.dtype)


def sample(
    x: Tensor,
    schedule: Schedule,
    predict_clean: PredictClean,
    sampler: str = SDE_DPMPP_2M,
    draw_noise: DrawNoise | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """From noise `x` to a clean latent of the same shape; N calls of `predict_clean` for N steps.

    `sampler` is one of SAMPLERS. Only the stochastic sampler calls `draw_noise`, once for each step but the last.

    Raises:
        NotFinite: a step's x0 holds NaN or infinite values.
    """
    alphas, last = schedule.alphas, len(schedule) - 1
    clean = before = None
    for i in range(len(schedule)):
        before, clean = clean, predict_clean(x, i)
        check_finite(clean, i, len(schedule))
        if on_step is not None:
            on_step(i, clean)
        if i == last:
            return clean
        target = clean
        if sampler != DDIM and before is not None:
            target = _extrapolate(clean, before, alphas[i - 1], alphas[i], alphas[i + 1])
        if sampler == SDE_DPMPP_2M:
            x = _stochastic_step(x, target, draw_noise(i), alphas[i], alphas[i + 1])
        else:
            x = _deterministic_step(x, target, alphas[i], alphas[i + 1])
    raise AssertionError("a schedule has at least one step")


def log_snr(a: float) -> float:
    """Half the log signal-to-noise ratio, -inf at pure noise."""
    return -math.inf if a == 0 else math.log(a / math.sqrt(1 - a * a))


def _extrapolate(clean: Tensor, before: Tensor, a_before: float, a: float, a_next: float) -> Tensor:
    """x0 extrapolated linearly in log SNR to the middle of the coming step (behind pure noise: not at all)."""
    ratio = (log_snr(a) - log_snr(a_before)) / (log_snr(a_next) - log_snr(a))
    share = 0.5 / ratio
    return (1 + share) * clean - share * before


def _stochastic_step(x: Tensor, target: Tensor, noise: Tensor, a: float, a_next: float) -> Tensor:
    decay = math.exp(log_snr(a) - log_snr(a_next))
    sigma, sigma_next = math.sqrt(1 - a * a), math.sqrt(1 - a_next * a_next)
    fresh = 1 - decay * decay
    return sigma_next / sigma * decay * x + fresh * a_next * target + sigma_next * math.sqrt(fresh) * noise


def _deterministic_step(x: Tensor, target: Tensor, a: float, a_next: float) -> Tensor:
    decay = math.exp(log_snr(a) - log_snr(a_next))
    sigma, sigma_next = math.sqrt(1 - a * a), math.sqrt(1 - a_next * a_next)
    return sigma_next / sigma * x + (1 - decay) * a_next * target
