"""Guidance: the chain and its weights. Branches of weight zero are never run."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hallo3_core.errors import InputError
from hallo3_core.sampling.guidance import (
    EVERYTHING,
    LARGEST_SCALE,
    NOTHING,
    PORTRAIT,
    SOUND,
    Branch,
    Guidance,
    Scales,
    branch_weights,
    guide,
)

CHAIN = (NOTHING, PORTRAIT, SOUND, EVERYTHING)
scale = st.floats(0, LARGEST_SCALE)


def results(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {branch: torch.randn(3, 4, generator=generator) for branch in CHAIN}


def chain(v, scales):
    """Guidance as written in the paper: a chain of differences."""
    out = v[NOTHING]
    for s, low, high in zip(scales, CHAIN, CHAIN[1:], strict=False):
        out = out + s * (v[high] - v[low])
    return out


@given(reference=scale, audio=scale, text=scale)
def test_the_weights_are_the_chain(reference, audio, text):
    scales, v = Scales(reference, audio, text), results()
    weights = branch_weights(scales)
    out = guide(lambda branches: [v[b] for b in branches], weights)
    assert torch.allclose(out, chain(v, scales), atol=2e-4)
    assert math.isclose(sum(weights.values()), 1, abs_tol=1e-9)


def test_the_released_setting_is_the_two_pass_rule():
    v = results()
    out = guide(lambda branches: [v[b] for b in branches], branch_weights(Scales(1, 3.5, 3.5)))
    u, c = v[PORTRAIT], v[EVERYTHING]
    assert torch.allclose(out, u + 3.5 * (c - u), atol=2e-6)


@given(st.sampled_from([0.0, 1.0, 2.5, 3.5]), st.sampled_from([0.0, 1.0, 3.5]), st.sampled_from([0.0, 1.0, 3.5]))
def test_what_a_setting_costs(r, a, t):
    expected = {NOTHING: r != 1, PORTRAIT: r != a, SOUND: a != t, EVERYTHING: t != 0}
    run = []

    def evaluate(branches):
        run.extend(branches)
        return [torch.ones(1) for _ in branches]

    guide(evaluate, branch_weights(Scales(r, a, t)))
    assert run == [branch for branch in CHAIN if expected[branch]]


@pytest.mark.parametrize(
    ("scales", "cost"), [((3.5, 3.5, 3.5), 2), ((1, 3.5, 3.5), 2), ((1, 1, 1), 1), ((1, 2, 3), 3), ((2, 3, 4), 4)]
)
def test_equal_scales_cost_two_model_calls(scales, cost):
    assert len(branch_weights(Scales(*scales))) == cost


def test_together_or_in_turn_is_the_same():
    v, weights = results(), branch_weights(Scales(2, 3, 4))
    groups = []

    def evaluate(branches):
        groups.append(len(branches))
        return [v[b] for b in branches]

    together = guide(evaluate, weights)
    assert torch.equal(together, guide(evaluate, weights, batched=False))
    assert torch.equal(together, guide(evaluate, weights, batched=True))
    assert groups == [4, 1, 1, 1, 1, 4]


@pytest.mark.parametrize("batched", [True, False])
def test_a_model_call_without_a_result_is_not_zero(batched):
    weights = branch_weights(Scales(2, 3, 4))
    with pytest.raises(ValueError, match="shorter"):
        guide(lambda branches: [torch.ones(1)] * (len(branches) - 1), weights, batched)


def test_guidance_on_a_part_of_the_steps():
    guidance = Guidance(Scales(), start=0.2, stop=0.6)
    costs = [len(guidance.weights(step, 10)) for step in range(10)]
    assert costs == [1, 1, 2, 2, 2, 2, 1, 1, 1, 1]
    assert guidance.branches(10) == {PORTRAIT, EVERYTHING}


def test_scales_for_each_step():
    guidance = Guidance([Scales(1, 1, 1), Scales(1, 2, 2)])
    assert [len(guidance.weights(step, 2)) for step in range(2)] == [1, 2]
    with pytest.raises(InputError, match="2 sets of guidance scales for 3 steps"):
        guidance.branches(3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.1, LARGEST_SCALE + 0.1])
def test_an_invalid_scale_is_refused(value):
    with pytest.raises(InputError, match="audio scale is"):
        Scales(audio=value)


@pytest.mark.parametrize(("start", "stop"), [(0.5, 0.5), (0.6, 0.2), (-0.1, 1), (0, 1.1), (math.nan, 1)])
def test_an_invalid_range_of_steps_is_refused(start, stop):
    with pytest.raises(InputError, match="guidance runs from"):
        Guidance(start=start, stop=stop)


def test_a_branch_is_named_by_its_conditions():
    assert Branch(reference=True, audio=True, text=False) == SOUND
    assert CHAIN == ((False, False, False), (True, False, False), (True, True, False), (True, True, True))


def test_what_is_released_is_what_is_meant_by_nothing():
    assert Guidance() == Guidance(Scales(reference=1, audio=3.5, text=3.5), start=0, stop=1)
    assert LARGEST_SCALE == 20


@pytest.mark.parametrize("scale", [0, LARGEST_SCALE])
def test_scales_at_their_ends(scale):
    assert math.isclose(sum(branch_weights(Scales(scale, scale, scale)).values()), 1)


@given(
    st.integers(1, 1000),
    st.integers(0, 999),
    st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda part: part[0] != part[1]).map(sorted),
    st.tuples(scale, scale, scale),
)
def test_every_step_is_guided_or_plain(steps, step, part, scales):
    """Inside the guided part the chain's weights, outside it one model call. Weights add up to 1 and none is 0."""
    step %= steps
    weights = Guidance(Scales(*scales), *part).weights(step, steps)
    inside = part[0] <= step / steps < part[1]
    assert weights == (branch_weights(Scales(*scales)) if inside else {EVERYTHING: 1})
    assert math.isclose(sum(weights.values()), 1, abs_tol=1e-9) and all(weights.values())
