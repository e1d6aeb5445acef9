"""Background writing: the film is the same, errors reach the caller, and no files are left behind."""

from __future__ import annotations

import threading

import pytest
import torch

from hallo3_core.errors import InputError
from hallo3_core.film.background_writer import BackgroundWriter
from hallo3_core.film.writer import FilmWriter

H, W = 32, 48


def clips(count=3, frames=5):
    noise = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (frames, H, W, 3), generator=noise).to(torch.uint8) for _ in range(count)]


class Recorder:
    """A writer that can be paused and made to fail at a chosen clip."""

    def __init__(self, fails_at=None):
        self.done, self.started, self.threads = [], [], set()
        self.fails_at, self.may_go = fails_at, threading.Event()
        self.may_go.set()

    def write(self, frames):
        self.started.append(frames)
        self.may_go.wait()
        self.threads.add(threading.get_ident())
        if len(self.started) - 1 == self.fails_at:
            raise InputError("film.mp4: the film could not be written (No space left on device). Is the disk full?")
        self.done.append(frames)


def test_the_film_is_the_same_byte_for_byte(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "background").mkdir()
    with torch.inference_mode():  # as a run is, while the thread is not
        with FilmWriter(tmp_path / "plain" / "a.mp4", H, W) as film:
            for clip in clips():
                film.write(clip)
        with FilmWriter(tmp_path / "background" / "a.mp4", H, W) as film, BackgroundWriter(film) as background:
            for clip in clips():
                background.write(clip)
    assert (tmp_path / "plain" / "a.mp4").read_bytes() == (tmp_path / "background" / "a.mp4").read_bytes()


def test_the_caller_goes_on_while_a_clip_is_written():
    recorder = Recorder()
    recorder.may_go.clear()
    with BackgroundWriter(recorder) as background:
        background.write("first")  # would never return if it waited for the writing
        assert recorder.done == []
        recorder.may_go.set()
    assert recorder.done == ["first"] and threading.get_ident() not in recorder.threads


def test_at_most_one_clip_is_on_its_way():
    recorder, returned = Recorder(), threading.Event()
    recorder.may_go.clear()
    with BackgroundWriter(recorder) as background:
        background.write("first")

        def second():
            background.write("second")
            returned.set()

        other = threading.Thread(target=second)
        other.start()
        assert not returned.wait(0.05) and len(recorder.started) <= 1
        recorder.may_go.set()
        other.join()
    assert recorder.done == ["first", "second"]


def test_a_failure_comes_out_at_the_next_clip():
    recorder = Recorder(fails_at=1)
    with pytest.raises(InputError, match="Is the disk full"), BackgroundWriter(recorder) as background:
        background.write("first")
        background.write("second")
        background.write("third")
    assert recorder.done == ["first"] and len(recorder.started) == 2


def test_the_last_clips_failure_comes_out_at_the_end(tmp_path):
    recorder, path = Recorder(fails_at=0), tmp_path / "a.mp4"
    with (
        pytest.raises(InputError, match="Is the disk full"),
        FilmWriter(path, H, W) as film,
        BackgroundWriter(recorder) as background,
    ):
        film.write(clips(1)[0])
        background.write("only")
    assert not list(tmp_path.iterdir())  # the film is discarded too


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_leaving_by_an_exception_leaves_nothing_behind(tmp_path, stop):
    before = threading.active_count()
    with (
        pytest.raises(stop),
        FilmWriter(tmp_path / "a.mp4", H, W) as film,
        BackgroundWriter(film) as background,
    ):
        for clip in clips():
            background.write(clip)
        raise stop
    assert not list(tmp_path.iterdir()) and threading.active_count() == before


def test_the_cause_of_a_stop_is_reported_not_its_consequences():
    recorder = Recorder(fails_at=0)
    with pytest.raises(KeyboardInterrupt), BackgroundWriter(recorder) as background:
        background.write("first")
        raise KeyboardInterrupt
