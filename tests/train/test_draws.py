"""What is drawn: how often conditions are left out, how timesteps spread, and what a draw depends on."""

from __future__ import annotations

import pytest
import torch

from hallo3_core.train.batch import Batch
from hallo3_core.train.draw import Chances, draw, spoil_motion
from hallo3_core.train.draws import Keyed, intervals, mixed

DRAWS, BATCH = 20_000, 500


class Passing:
    """A VAE whose moments are ones: what is dropped shows as zeros."""

    def unchecked_moments(self, pixels):
        return torch.ones(len(pixels), 2, 1, 1, 1)


@pytest.fixture(scope="module")
def drawn():
    """20,000 samples' conditions, and whether each was left out."""
    ones = torch.ones
    batch = Batch(
        clip=ones(BATCH, 2, 2, 1, 1),
        motion=ones(BATCH, 3, 2, 2, 2),
        portrait=ones(BATCH, 3, 2, 2),
        masked=ones(BATCH, 2, 1, 1, 1),
        text=ones(BATCH, 1, 1),
        face=ones(BATCH, 1),
        audio=ones(BATCH, 1, 1, 1, 1),
    )
    found = [draw(batch, Passing(), Keyed(0, step, BATCH), Chances()) for step in range(DRAWS // BATCH)]
    names = [name for name, value in found[0]._asdict().items() if value is not None]
    return {name: torch.cat([getattr(each, name) for each in found]) for name in names}


@pytest.mark.parametrize(
    ("name", "chance"), [("audio", 0.05), ("concat", 0.05), ("reference", 0.05), ("text", 0.1), ("face", 0.0)]
)
def test_drop_rates(drawn, name, chance):
    dropped = (drawn[name].flatten(1) == 0).all(1).double().mean().item()
    assert len(drawn[name]) == DRAWS
    assert abs(dropped - chance) <= 4 * (chance * (1 - chance) / DRAWS) ** 0.5


def test_drops_are_independent_of_each_other(drawn):
    both = [(drawn[name].flatten(1) == 0).all(1).double() for name in ("audio", "concat", "reference", "text")]
    correlations = torch.corrcoef(torch.stack(both)) - torch.eye(4)
    assert correlations.abs().max() < 5 / DRAWS**0.5


def test_timesteps_are_uniform(drawn):
    counts = torch.bincount(drawn["timesteps"] // 50, minlength=20)
    assert len(counts) == 20 and (counts - DRAWS / 20).abs().max() <= 5 * (DRAWS / 20) ** 0.5


def test_motion_frames_are_noised_and_their_pixels_dropped_together():
    motion = torch.ones(200, 3, 2, 8, 8)
    spoiled = spoil_motion(motion, Keyed(0, 1, 200), Chances())
    grey = spoiled == 0
    assert torch.equal(grey, grey[:, :1, :1].expand_as(grey))
    assert abs(grey.double().mean() - 0.1) < 4 * (0.09 / (200 * 64)) ** 0.5
    sigma = (spoiled - 1)[~grey[:, :1, :1].expand_as(grey)].std()
    assert sigma == pytest.approx(torch.tensor(2 * (0.5**2) - 6.0).mul(0.5).exp().item(), rel=0.15)


def test_a_draw_depends_on_seed_step_and_sample_alone():
    whole = Keyed(1, 2, 6)
    parts = [Keyed(1, 2, 6, slice(n, n + 2)) for n in (0, 2, 4)]
    for ask in (lambda d: d.normal("a", (3,)), lambda d: d.uniform("b"), lambda d: d.timesteps()):
        assert torch.equal(ask(whole), torch.cat([ask(part) for part in parts]))
    assert not torch.equal(Keyed(1, 3, 6).uniform("b"), Keyed(1, 2, 6).uniform("b"))
    assert not torch.equal(Keyed(2, 2, 6).uniform("b"), Keyed(1, 2, 6).uniform("b"))
    assert len({mixed(seed, step) for seed in range(50) for step in range(50)}) == 2500


@pytest.mark.parametrize(("count", "parts"), [(1, 1), (8, 8), (64, 8), (3, 1), (32, 8), (5, 5)])
def test_timestep_intervals_of_as_many_processes(count, parts):
    """Of N processes: the largest N / i that divides 1000."""
    assert intervals(count) == parts
    drawn = Keyed(0, 0, count).timesteps()
    assert torch.bincount(drawn // (1000 // parts), minlength=parts).tolist() == [count // parts] * parts
