"""Step caching: what it may miss is bounded, what it may not skip is computed, and off is off."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hallo3_core.errors import InputError
from hallo3_core.sampler import DDIM, SDE_DPMPP_2M, sample
from hallo3_core.schedule import make_schedule
from hallo3_core.step_cache import StepCache, check_threshold


class Counted:
    """A network that is told nothing but the state, and notes when it is asked."""

    def __init__(self, function):
        self.function, self.steps = function, []

    def __call__(self, x, step):
        self.steps.append(step)
        return self.function(x)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(threshold=st.floats(0, 0.9), gain=st.floats(0.1, 3), seed=st.integers(0, 99), stride=st.floats(1e-3, 0.3))
def test_for_a_linear_network_the_miss_stays_below_the_threshold(threshold, gain, seed, stride):
    network, steps = Counted(lambda x: gain * x), 20
    cached, x = StepCache(network, steps, threshold), noise(8, seed=seed)
    for step in range(steps):
        found, exact = cached(x, step), gain * x
        scale = cached._seen[1].norm()
        assert (found - exact).norm() <= threshold * scale + 1e-5 * scale
        x = x + stride * noise(8, seed=seed + step + 1)
    assert cached.reused == steps - len(network.steps)


def test_a_result_that_stands_still_is_computed_three_times():
    network, steps = Counted(lambda x: torch.ones(4)), 12
    cached = StepCache(network, steps, 0.01)
    for step in range(steps):
        cached(noise(4, seed=step), step)
    assert network.steps == [0, 1, 11] and cached.reused == 9


def test_a_threshold_of_nothing_skips_nothing():
    network = Counted(lambda x: 2 * x)
    cached = StepCache(network, 6, 0)
    assert all(torch.equal(cached(noise(4, seed=step), step), 2 * noise(4, seed=step)) for step in range(6))
    assert network.steps == list(range(6))


def test_steps_of_another_rule_are_computed():
    """x0 of a guided step does not serve one without guidance."""
    network = Counted(lambda x: torch.ones(4))
    cached = StepCache(network, 10, 0.5, rule=lambda step: step < 6)
    for step in range(10):
        cached(noise(4, seed=step), step)
    assert network.steps == [0, 1, 6, 9]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_are_all_computed(steps):
    network = Counted(lambda x: torch.ones(4))
    cached = StepCache(network, steps, 0.5)
    for step in range(steps):
        cached(noise(4), step)
    assert network.steps == list(range(steps))


def test_fresh_noise_leaves_less_to_reuse():
    """Why presets pair the cache with a solver that adds none."""
    schedule, reused = make_schedule(30), {}
    for sampler in (DDIM, SDE_DPMPP_2M):
        cached = StepCache(lambda x, step: 0.5 * x.tanh(), len(schedule), 0.1)
        sample(noise(64), schedule, cached, sampler, draw_noise=lambda step: noise(64, seed=step + 1))
        reused[sampler] = cached.reused
    assert reused[DDIM] > reused[SDE_DPMPP_2M]


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan"), float("inf")])
def test_a_threshold_that_is_none(threshold):
    with pytest.raises(InputError, match="the step cache's threshold is"):
        check_threshold(threshold)
