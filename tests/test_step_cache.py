"""Step cache: what it extrapolates and how far, which steps it must not skip, and that off means off."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hallo3_core.errors import InputError
from hallo3_core.pipeline.options import Settings
from hallo3_core.sampling.guidance import Guidance
from hallo3_core.sampling.sampler import DDIM, DPMPP_2M, SAMPLERS, SDE_DPMPP_2M, log_snr, sample
from hallo3_core.sampling.schedule import make_schedule
from hallo3_core.sampling.step_cache import IN_A_ROW, StepCache
from tools.testbed.ideal_denoiser import Mixture, difference


class Counted:
    """A network that records the steps at which it is called."""

    def __init__(self, function):
        self.function, self.steps = function, []

    def __call__(self, x, step):
        self.steps.append(step)
        return self.function(x, step)


class Held:
    """Baseline that extrapolation must beat: repeats x0 of the last computed step in the steps `skipped`."""

    def __init__(self, skipped, predict_clean, *_):
        self.skipped, self.predict, self.clean = skipped, predict_clean, None

    def __call__(self, x, step):
        if step not in self.skipped:
            self.clean = self.predict(x, step)
        return self.clean


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def steady(x, step):
    return torch.ones(4)


def run(network, steps, threshold, rule=lambda step: None):
    """Returns every x0 of a run on random states."""
    cached = StepCache(network, make_schedule(steps), threshold, rule)
    return [cached(noise(4, seed=step), step) for step in range(steps)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_x0_linear_in_log_snr_is_carried_on_exactly(sampler):
    schedule, start, slope = make_schedule(30), noise(16, seed=1), 0.1 * noise(16, seed=2)
    network = Counted(lambda x, step: start + slope * max(log_snr(schedule.alphas[step]), -9))
    make = partial(sample, noise(16), schedule, sampler=sampler, draw_noise=lambda step: noise(16, seed=step))
    expected, found = [], []
    make(network, on_step=lambda step, clean: expected.append(clean))
    network.steps.clear()
    make(StepCache(network, schedule, 0.3), on_step=lambda step, clean: found.append(clean))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert len(network.steps) < 20


@pytest.mark.parametrize("sampler", [DDIM, DPMPP_2M])
@pytest.mark.parametrize("steps", [20, 30, 50])
def test_an_ideal_denoisers_film_is_nearer_than_with_x0_held(sampler, steps):
    """With the exact denoiser of 64 Gaussians in 512 dimensions, on the same skipped steps, about half of all."""
    settings = Settings(steps, Guidance(), sampler, cache=0.05)
    carried, held = [], []
    for seed in range(3):
        mixture, asked = Mixture(seed, 0.3), []

        def noting(predict, *args, asked=asked):
            asked.append(Counted(predict))
            return StepCache(asked[0], *args)

        full, film = mixture.film(settings).latent, mixture.film(settings, noting).latent
        skipped = set(range(steps)) - set(asked[0].steps)
        assert len(skipped) > 0.35 * steps
        carried.append(difference(film, full))
        held.append(difference(mixture.film(settings, partial(Held, skipped)).latent, full))
    assert max(carried) < 0.007
    assert sum(carried) < sum(held) / 4


@given(threshold=st.floats(0, 0.9), jump=st.floats(0, 2), seed=st.integers(0, 99), steps=st.integers(1, 40))
def test_a_skipped_step_is_bounded_in_movement_and_number(threshold, jump, seed, steps):
    """For any network, x0 stays within the threshold of the last computed one; first and last step are computed."""
    network = Counted(lambda x, step: noise(4, seed=1000) + jump * noise(4, seed=100 * seed + step))
    found = run(network, steps, threshold)
    computed = network.steps
    assert computed[0] == 0 and computed[-1] == steps - 1 and len(set(computed)) == len(computed) <= steps
    assert all(after - before <= IN_A_ROW + 1 for before, after in zip(computed, computed[1:], strict=False))
    for step in set(range(steps)) - set(computed):
        start = found[max(i for i in computed if i < step)]
        assert (found[step] - start).norm() <= (threshold + 1e-12) * start.norm()  # plus rounding


def test_what_is_skipped_hangs_on_x0_alone():
    """All ranks gather the same velocities, so they make the same decisions."""
    asked = []
    for seed in (0, 1):
        network = Counted(lambda x, step: torch.linspace(-1, 1, 4) * (1 + 1 / (1 + step)))
        cached = StepCache(network, make_schedule(20), 0.05)
        for step in range(20):
            cached(noise(4, seed=20 * seed + step), step)
        asked.append(network.steps)
    assert asked[0] == asked[1] and 3 < len(asked[0]) < 20


def test_no_more_than_two_in_a_row():
    """The first step, from pure noise, is not used for extrapolation with the second."""
    network = Counted(steady)
    run(network, 12, 0.01)
    assert network.steps == [0, 1, 2, 5, 8, 11]


def test_a_threshold_of_nothing_skips_nothing():
    network = Counted(steady)
    run(network, 6, 0)
    assert network.steps == list(range(6))


def test_steps_of_another_rule_are_computed():
    """x0 of guided steps does not predict unguided ones, so two unguided steps are computed before one is skipped."""
    network = Counted(lambda x, step: torch.ones(4) * (1 if step < 6 else 3))
    found = run(network, 10, 0.5, rule=lambda step: step < 6)
    assert network.steps == [0, 1, 2, 5, 6, 7, 9]
    assert all(torch.equal(clean, network.function(None, step)) for step, clean in enumerate(found))


def test_an_x0_of_nothing_is_computed():
    network = Counted(lambda x, step: torch.zeros(4))
    run(network, 8, 0.5)
    assert network.steps == list(range(8))


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_few_steps_are_all_computed(steps):
    network = Counted(steady)
    run(network, steps, 0.5)
    assert network.steps == list(range(steps))


def test_fresh_noise_leaves_less_to_skip():
    """This is why presets combine the cache with a solver that adds no noise."""
    schedule, skipped = make_schedule(30), {}
    for sampler in (DDIM, SDE_DPMPP_2M):
        cached = StepCache(lambda x, step: 0.5 * x.tanh(), schedule, 0.1)
        sample(noise(64), schedule, cached, sampler, draw_noise=lambda step: noise(64, seed=step + 1))
        skipped[sampler] = cached.skipped
    assert skipped[DDIM] > skipped[SDE_DPMPP_2M]


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan"), float("inf")])
def test_an_invalid_threshold_is_refused(threshold):
    with pytest.raises(InputError, match="the step cache's threshold is"):
        Settings(cache=threshold)
