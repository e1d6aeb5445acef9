"""The toy is taught in windows of the picture, whose tokens keep their positions; a stopped lesson goes on exactly."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hallo3_core.errors import InputError
from hallo3_core.model.attention import scaled_dot_product
from hallo3_core.model.config import Grid
from hallo3_core.train import toy_lesson
from hallo3_core.train.cache import cache_films
from hallo3_core.train.draw import draw
from hallo3_core.train.draws import Keyed
from hallo3_core.train.interrupting import Stopped
from hallo3_core.train.loop import TrainingRun, train
from hallo3_core.train.materials import input_sizes
from hallo3_core.train.preview import NO_DROPS
from hallo3_core.train.processes import join
from hallo3_core.train.samples import Resident
from hallo3_core.train.start import OTHER, read_start
from hallo3_core.train.step import step
from hallo3_core.train.toy_clips import WHOLE_EVERY, LessonClips
from hallo3_core.train.toy_lesson import MOUTH_WEIGHT, Lesson, half_precision_attention, teach
from hallo3_core.train.toy_window import LatentWindow, place_of
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


@pytest.fixture
def taught(heard, heavy, encoders, tmp_path):
    """The result of a lesson in `tmp_path`, by official names."""

    def taught(name: str, seconds: float = 4) -> dict[str, torch.Tensor]:
        lesson = Lesson(
            heard, tmp_path / f"{name}.safetensors", tmp_path / name, seconds, window=(2, 2), batch=4, compile=False
        )
        teach(lesson, toys.configuration(None).network, input_sizes(heavy[0]), heavy, encoders.vae)
        return read_start([lesson.result]).tensors

    return taught


class Counted:
    """A budget whose seconds are steps."""

    def __init__(self, seconds: float, spent: float = 0.0):
        self.seconds, self.spent = seconds, spent

    @property
    def share(self) -> float:
        self.spent += 1
        return self.spent / self.seconds

    @property
    def over(self) -> bool:
        return self.spent >= self.seconds


def test_a_lesson_changes_every_network(heard, taught):
    before, after = read_start([heard]).tensors, taught("lesson", 0.5)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name].float(), after[name].float())}
    for words in ("audio_proj", "audio_attn", "face_proj", OTHER):
        assert any(words in name for name in changed), words


def test_a_stopped_lesson_goes_on_as_if_it_had_not_been_stopped(taught, monkeypatch):
    monkeypatch.setattr(toy_lesson, "Budget", Counted)
    whole = taught("whole", 6)
    asked = iter([False, False, True])
    with monkeypatch.context() as patch:
        patch.setattr(toy_lesson, "asked_to_stop", lambda: nullcontext(lambda: next(asked)))
        with pytest.raises(Stopped):
            taught("stopped", 6)
    resumed = taught("stopped", 6)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_without_a_compiler_a_lesson_is_only_slower(monkeypatch):
    def missing(device):
        raise InputError("no compiler")

    monkeypatch.setattr(toy_lesson, "check_compiler", missing)
    monkeypatch.setattr(toy_lesson, "compile_blocks", lambda network: pytest.fail("compiled"))
    toy_lesson.compile_where_possible(None, torch.device("cpu"))


def test_attention_in_half_precision_is_attention():
    q, k, v = toys.noise(3, 2, 4, 10, 32, seed=0)
    assert torch.allclose(half_precision_attention(q, k, v).float(), scaled_dot_product(q, k, v), atol=0.03)


def test_steps_look_at_the_mouth_elsewhere_and_at_whole_pictures(heavy, encoders):
    clips = LessonClips(heavy, encoders.vae, window=(1, 2), batch=4, seed=0, device=torch.device("cpu"))
    views = [clips.view(step) for step in range(1, 41)]
    whole, part = views[WHOLE_EVERY - 1 :: WHOLE_EVERY], [v for n, v in enumerate(views, 1) if n % WHOLE_EVERY]
    assert {(view.place, view.size, len(view.drawn.clip)) for view in whole} == {((0, 0), (2, 3), 1)}
    around = place_of(heavy[0].weight, (1, 2))
    share = sum(view.place == around for view in part) / len(part)
    assert 0.6 < share < 1 and len({view.place for view in part}) > 2
    again = clips.view(7)
    assert again.place == views[6].place and torch.equal(again.drawn.noise, views[6].drawn.noise)
    assert torch.equal(again.drawn.clip, views[6].drawn.clip)


def test_a_window_as_large_as_the_picture_is_the_picture(heard, heavy, encoders, tmp_path):
    config = replace(toys.configuration(tmp_path, "speech"), start=heard)
    networks = TrainingRun(config, join("cpu", 2), None, encoders, heavy).networks
    draws = Keyed(3, 1, 2)
    drawn = draw(Resident(heavy, "cpu").batch(torch.tensor([0, 3]), draws), encoders.vae, draws, NO_DROPS)
    with torch.no_grad():
        whole = step(networks, drawn).velocity
        window = LatentWindow(networks.denoiser.config, Grid(*input_sizes(heavy[0]).grid), "cpu")
        assert torch.equal(step(networks, window.cut(drawn), layout=window.layout).velocity, whole)


@given(st.data())
def test_the_window_holds_the_mouth_and_stays_in_the_picture(data):
    rows, columns = data.draw(st.integers(3, 9)), data.draw(st.integers(3, 12))
    row, column = data.draw(st.integers(0, 2 * rows - 1)), data.draw(st.integers(0, 2 * columns - 1))
    weight = torch.ones(2 * rows, 2 * columns)
    weight[row, column] = 6
    top, left = place_of(weight, (2, 3))
    assert 0 <= top <= rows - 2 and 0 <= left <= columns - 3
    assert top <= row // 2 < top + 2 and left <= column // 2 < left + 3
