"""Cells around the mouth that count more in the loss, which is ours and not the original's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hallo3_core.errors import InputError
from hallo3_core.train.cache import cache_films
from hallo3_core.train.draw import draw
from hallo3_core.train.draws import Keyed
from hallo3_core.train.geometry import box_cells, fitted
from hallo3_core.train.loop import TrainingRun
from hallo3_core.train.preview import NO_DROPS
from hallo3_core.train.processes import join
from hallo3_core.train.samples import Mapped, Resident
from hallo3_core.train.step import step
from tests.train import toys

MOUTH = (17, 9, 30, 15)  # pixels: columns 2 and 3 of 6, row 1 of 4
ROWS, COLUMNS = slice(1, 2), slice(2, 4)


def entries(weight: float, encoders, mouth=MOUTH):
    data = replace(toys.configuration(None).data, mouth_weight=weight)
    films = [replace(film, mouth=mouth) for film in toys.films(3)]
    return cache_films(films, encoders, data, None)


@pytest.fixture(scope="module")
def encoders():
    return toys.encoders()


@pytest.fixture(scope="module")
def heavy(encoders):
    return entries(5.0, encoders)


@pytest.fixture(scope="module")
def run(encoders, tmp_path_factory):
    config = toys.configuration(tmp_path_factory.mktemp("run"))
    return TrainingRun(config, join("cpu", 2), None, encoders, entries(1.0, encoders, mouth=None))


def a_step(run, entries):
    """Its inputs and what the networks make of them, for two clips."""
    draws = Keyed(3, 1, 2)
    inputs = draw(Resident(entries, "cpu").batch(torch.tensor([0, 3]), draws), run.encoders.vae, draws, NO_DROPS)
    with torch.no_grad():
        return inputs, step(run.networks, inputs)


def test_by_default_the_loss_is_the_originals_bit_for_bit(run, encoders):
    """With a mouth's box and without."""
    without, plain = a_step(run, run.materials.entries + run.materials.held_out)
    boxed, same = a_step(run, entries(1.0, encoders))
    assert without.weight is None and boxed.weight is None
    assert torch.equal(plain.loss, same.loss)


def test_a_weight_of_5_is_a_weighted_mean(run, heavy):
    inputs, found = a_step(run, heavy)
    sigma = (1 - found.a**2).sqrt().view(-1, 1, 1, 1, 1)
    target = found.a.view(-1, 1, 1, 1, 1) * inputs.noise - sigma * inputs.clip
    cells = (found.velocity - target).square().double().mean(dim=(1, 2))  # of each latent cell
    inside = cells[:, ROWS, COLUMNS].sum((1, 2))
    expected = (cells.sum((1, 2)) + 4 * inside) / (24 + 4 * 2)
    assert torch.allclose(found.loss.double(), expected, rtol=1e-6)
    assert (found.loss - cells.mean((1, 2))).abs().max() > 1e-4


def test_the_validation_loss_counts_all_cells_the_same(run, encoders, heavy, tmp_path):
    config = toys.configuration(tmp_path)
    assert TrainingRun(config, join("cpu", 2), None, encoders, heavy).validate() == run.validate()


def test_cells_are_those_that_the_box_touches():
    cells = box_cells(torch.tensor(MOUTH), toys.SIZE)
    expected = torch.zeros(4, 6)
    expected[ROWS, COLUMNS] = 1
    assert torch.equal(cells, expected)
    twice = fitted((64, 96), toys.SIZE).box(torch.tensor(MOUTH) * 2)  # of a film twice as large
    assert torch.equal(box_cells(twice, toys.SIZE), expected)


def test_both_kinds_of_samples_carry_the_weight(heavy):
    clips, draws = torch.tensor([1, 4]), lambda: Keyed(0, 1, 2)
    resident, mapped = (made(heavy, "cpu").batch(clips, draws()) for made in (Resident, Mapped))
    assert torch.equal(resident.weight, mapped.weight)
    assert resident.weight.mean((1, 2)) == pytest.approx([1, 1])
    ratio = resident.weight[:, ROWS, COLUMNS].mean() / resident.weight[:, 0, 0].mean()
    assert float(ratio) == pytest.approx(5)


def test_a_film_without_a_mouth_box_is_refused(encoders):
    with pytest.raises(InputError) as refused:
        entries(2.0, encoders, mouth=None)
    first, *_, last = str(refused.value).splitlines()
    assert first == "film 0: has no mouth_box, which data.mouth_weight needs. Add it, or set data.mouth_weight to 1."
    assert last == "Fix them, or leave these videos out (data.skip_bad)."
