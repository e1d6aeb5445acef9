"""The toy's audio modules are taught in a window of the picture, whose tokens keep their positions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hallo3_core.model.config import Grid
from hallo3_core.train.cache import cache_films
from hallo3_core.train.draw import draw
from hallo3_core.train.draws import Keyed
from hallo3_core.train.loop import TrainingRun, train
from hallo3_core.train.materials import input_sizes
from hallo3_core.train.preview import NO_DROPS
from hallo3_core.train.processes import join
from hallo3_core.train.samples import Resident
from hallo3_core.train.start import OTHER, read_start
from hallo3_core.train.step import step
from hallo3_core.train.toy_speech import MOUTH_WEIGHT, Lesson, Window, place_of, teach_speech
from tests.train import toys

MOUTH = (17, 9, 30, 15)  # pixels


@pytest.fixture(scope="module")
def encoders():
    return toys.encoders()


@pytest.fixture(scope="module")
def heavy(encoders):
    data = replace(toys.configuration(None).data, mouth_weight=MOUTH_WEIGHT)
    return cache_films([replace(film, mouth=MOUTH) for film in toys.films(3)], encoders, data, None)


@pytest.fixture(scope="module")
def heard(encoders, tmp_path_factory):
    """A transformer file with audio modules."""
    path, folder = None, tmp_path_factory.mktemp("phases")
    for mode in ("base", "identity", "audio"):
        config = replace(toys.configuration(folder / mode, mode), start=path)
        path = train(config, encoders=encoders, entries=toys.entries()).path
    return path


def test_a_lesson_changes_what_hears_and_leaves_the_reference_network(heard, heavy, encoders, tmp_path):
    lesson = Lesson(heard, tmp_path / "taught.safetensors", 0.5, window=(2, 2), batch=2)
    measured = teach_speech(lesson, toys.configuration(None).network, input_sizes(heavy[0]), heavy, encoders.vae)
    before, after = read_start([heard]).tensors, read_start([lesson.result]).tensors
    assert measured["steps"] >= 1 and before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name].float(), after[name].float())}
    assert any("audio_proj" in name for name in changed) and any("audio_attn" in name for name in changed)
    assert not any(name.startswith(OTHER) for name in changed)


def test_a_window_as_large_as_the_picture_is_the_picture(heard, heavy, encoders, tmp_path):
    config = replace(toys.configuration(tmp_path, "speech"), start=heard)
    networks = TrainingRun(config, join("cpu", 2), None, encoders, heavy).networks
    draws = Keyed(3, 1, 2)
    drawn = draw(Resident(heavy, "cpu").batch(torch.tensor([0, 3]), draws), encoders.vae, draws, NO_DROPS)
    with torch.no_grad():
        whole = step(networks, drawn).velocity
        window = Window(networks, Grid(*input_sizes(heavy[0]).grid), (2, 3))
        assert torch.equal(step(networks, window.cut(drawn)).velocity, whole)


@given(st.data())
def test_the_window_holds_the_mouth_and_stays_in_the_picture(data):
    rows, columns = data.draw(st.integers(3, 9)), data.draw(st.integers(3, 12))
    row, column = data.draw(st.integers(0, 2 * rows - 1)), data.draw(st.integers(0, 2 * columns - 1))
    weight = torch.ones(2 * rows, 2 * columns)
    weight[row, column] = 6
    top, left = place_of(weight, (2, 3))
    assert 0 <= top <= rows - 2 and 0 <= left <= columns - 3
    assert top <= row // 2 < top + 2 and left <= column // 2 < left + 3
