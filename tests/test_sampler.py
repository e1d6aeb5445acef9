"""Solvers and schedule: laws that hold for any network."""

import pytest
import torch

from hallo3_core.errors import InputError
from hallo3_core.pipeline.options import Settings
from hallo3_core.sampling.noise import MAX_SEED, SeededNoise
from hallo3_core.sampling.sampler import DDIM, DPMPP_2M, SAMPLERS, SDE_DPMPP_2M, clean_from_velocity, sample
from hallo3_core.sampling.schedule import TRAINING_STEPS, make_schedule

STEPS = (1, 2, 7, 50)


@pytest.mark.parametrize("steps", [1, 2, 50, TRAINING_STEPS])
def test_a_schedule_goes_from_noise_to_clean(steps):
    schedule = make_schedule(steps)
    assert len(schedule) == steps and schedule.timesteps[0] == 999
    assert len(schedule.alphas) == steps + 1 and len(schedule.wrapped) == steps
    assert schedule.alphas[0] == 0 and schedule.alphas[-1] == 1
    assert list(schedule.alphas) == sorted(schedule.alphas)
    assert list(schedule.timesteps) == sorted(set(schedule.timesteps), reverse=True)
    assert max(abs(a - q) for a, q in zip(schedule.alphas, schedule.wrapped, strict=False)) < 6e-4


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_no_such_number_of_steps(steps):
    with pytest.raises(InputError, match=f"steps is {steps}"):
        make_schedule(steps)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", STEPS)
def test_a_network_that_knows_the_answer_gives_it(sampler, steps):
    answer = torch.linspace(-2, 2, 24).view(2, 3, 4)
    schedule, noise = make_schedule(steps), torch.Generator().manual_seed(0)
    seen = []
    out = sample(
        torch.randn(2, 3, 4, generator=noise),
        schedule,
        lambda x, i: answer,
        sampler,
        draw_noise=lambda i: torch.randn(2, 3, 4, generator=noise),
        on_step=lambda i, clean: seen.append(i),
    )
    assert torch.equal(out, answer)
    assert seen == list(range(steps))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_state_keeps_the_noise_level_of_its_step(sampler):
    """With a network that predicts x0 = 0 exactly, the state is pure noise of variance 1 - a^2."""
    noise, schedule = torch.Generator().manual_seed(1), make_schedule(10)
    levels = []

    def predict(x, i):
        levels.append(x.var().item())
        return torch.zeros_like(x)

    draw = lambda *_: torch.randn(20_000, generator=noise)  # noqa: E731
    sample(draw(), schedule, predict, sampler, draw_noise=draw)
    assert levels == pytest.approx([1 - a * a for a in schedule.alphas[:-1]], abs=0.03)


@pytest.mark.parametrize("sampler", [DDIM, DPMPP_2M])
def test_the_state_of_a_deterministic_solver_is_the_answer_and_its_noise(sampler):
    """With a network that predicts x0 exactly, every state is ``a x0 + sqrt(1 - a^2) noise`` with the initial noise."""
    answer, noise = torch.linspace(-2, 2, 24), torch.randn(24, generator=torch.Generator().manual_seed(3))
    schedule, states = make_schedule(9), []

    def predict(x, i):
        states.append(x)
        return answer

    sample(noise, schedule, predict, sampler)
    for x, a in zip(states, schedule.alphas, strict=False):
        torch.testing.assert_close(x, a * answer + (1 - a * a) ** 0.5 * noise, atol=1e-5, rtol=0)


def test_velocity_and_clean_are_one():
    x0, noise = torch.randn(50), torch.randn(50)
    for a in (0.0, 0.3, 0.9):
        s = (1 - a * a) ** 0.5
        x, v = a * x0 + s * noise, a * noise - s * x0
        assert torch.allclose(clean_from_velocity(x, v, a), x0, atol=1e-5)


def test_deterministic_solvers_draw_nothing_and_agree_to_first_order():
    x, schedule = torch.randn(100, generator=torch.Generator().manual_seed(2)), make_schedule(200)
    results = [sample(x, schedule, lambda x, i: torch.tanh(x) * 0.5, sampler) for sampler in (DDIM, DPMPP_2M)]
    assert (results[0] - results[1]).abs().max() < 0.02
    assert not torch.equal(*results)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_value_that_is_not_finite_stops_at_its_step(sampler):
    seen = []

    def predict(x, i):
        seen.append(i)
        return x * float("nan") if i == 2 else x

    with pytest.raises(InputError, match="step 3 of 5"):
        sample(torch.ones(3), make_schedule(5), predict, sampler, lambda i: torch.zeros(3))
    assert seen == [0, 1, 2]


def test_an_unknown_sampler():
    with pytest.raises(InputError, match="sampler is 'euler': choose one of sde-dpmpp-2m, dpmpp-2m, ddim"):
        Settings(sampler="euler")


def draws(seed, clip):
    noise = SeededNoise(seed, clip)
    return torch.cat(
        (noise.pixel_uniform(4, 4).flatten(), noise.initial((8,)), noise.step(0, (8,)), noise.step(1, (8,)))
    )


def test_a_seed_and_a_clip_determine_every_draw():
    assert torch.equal(draws(7, 3), draws(7, 3))
    assert draws(0, 0).shape == draws(0, 0).unique().shape
    for other in ((8, 3), (7, 4), (3, 7), (MAX_SEED, 3)):
        assert not torch.isclose(draws(7, 3), draws(*other)).any()


def test_draws_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    draws(1, 1)
    assert torch.equal(torch.rand(3), expected)


def test_a_start_does_not_depend_on_the_picture_size():
    a, b = SeededNoise(1, 0), SeededNoise(1, 0)
    a.pixel_uniform(48, 64)
    assert torch.equal(a.initial((5,)), b.initial((5,)))


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_no_such_seed(seed):
    with pytest.raises(InputError, match="choose 0 to 18446744073709551615"):
        SeededNoise(seed, 0)


def test_only_the_stochastic_solver_asks_for_noise():
    asked = []
    sample(torch.zeros(3), make_schedule(5), lambda x, i: x, SDE_DPMPP_2M, lambda i: asked.append(i) or torch.zeros(3))
    assert asked == [0, 1, 2, 3]  # not for the last step
