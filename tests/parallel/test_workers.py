"""Many films among workers that may die: every film once, each as one process makes it."""

from __future__ import annotations

import os
import re
import signal

import pytest
import torch

from hallo3_core.animate import FinishedFilm, Progress, animate
from hallo3_core.cli.batch import Job
from hallo3_core.cli.main import main
from hallo3_core.cli.workers import claim, make_films, take
from hallo3_core.errors import InputError
from hallo3_core.film.writer import read_film
from hallo3_core.pipeline.networks import Networks
from hallo3_core.pipeline.options import Options, Settings
from hallo3_core.release.layout import Release

FILMS = 5


@pytest.fixture
def work(tiny_release, portrait, short_speech):
    """`work(folder, progress)` makes what is missing in a folder, as torchrun numbers the workers; the names made."""
    options = Options(Settings(steps=1), size=(16, 32))

    def run(folder, progress=Progress):
        jobs = {folder / f"{i}.mp4": Job(i, f"Person {i}.", portrait, short_speech) for i in range(FILMS)}
        release = Release(tiny_release)

        def make(job, film):
            return animate(job.image, job.audio, job.prompt, film, Networks(release, options), progress())

        results = make_films(jobs, make, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        return [film.name for film, made in results if isinstance(made, FinishedFilm)]

    return run


class Killed(Progress):
    """Worker 1 is killed in the middle of its first film."""

    def step(self, clip, step, clean):
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)


def test_one_of_four_workers_is_killed_and_all_films_are_made_once(together, work, tmp_path):
    several, alone = tmp_path / "several", tmp_path / "alone"
    several.mkdir()
    alone.mkdir()
    made = together(4, lambda: work(several, Killed))
    assert made.pop(1) == -signal.SIGKILL
    assert sorted(sum(made, [])) == [f"{i}.mp4" for i in range(FILMS)]
    assert not list(several.glob("*.claim"))
    assert together(1, lambda: work(alone)) == [[f"{i}.mp4" for i in range(FILMS)]]
    for i in range(FILMS):
        (frames, _, sound), (expected, _, its_sound) = (read_film(f / f"{i}.mp4") for f in (several, alone))
        assert torch.equal(frames, expected) and torch.equal(sound.waveform, its_sound.waveform)
    assert together(1, lambda: work(alone)) == [[]]  # a restart makes nothing twice


def test_a_claim_is_held_by_one_and_names_it(together, tmp_path):
    film = tmp_path / "film.mp4"
    with claim(film) as ours:
        assert ours
        assert str(os.getpid()) in (tmp_path / ".film.mp4.claim").read_text()
        with claim(film) as second:
            assert not second

        def other():
            with claim(film) as ours:
                return ours

        assert together(1, other) == [False]
    assert together(1, other) == [True]


def test_a_claim_needs_a_folder(tmp_path):
    with pytest.raises(InputError, match="nothing can be written to"), claim(tmp_path / "none" / "film.mp4"):
        pass


@pytest.mark.parametrize("worker", range(3))
def test_a_worker_begins_with_its_share_and_goes_on_with_the_others(tmp_path, worker):
    films = [tmp_path / f"{i}.mp4" for i in range(7)]
    films[4].touch()
    order = list(take(films, worker, 3))
    assert sorted(order) == sorted(set(films) - {films[4]})
    own = [film for film in films[worker::3] if film != films[4]]
    assert order[: len(own)] == own


def test_films_of_others_are_waited_for_and_not_made_again(tmp_path):
    films = [tmp_path / f"{i}.mp4" for i in range(2)]
    other = take(films[:1])
    assert next(other) == films[0]
    mine = take(films)
    assert next(mine) == films[1]
    films[0].touch()  # the other one is done
    assert list(other) == [] and list(mine) == []


def test_shards_of_a_batch_are_all_of_it_once(tiny_release, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hallo3_core.animate.animate", lambda *args, **more: FinishedFilm(args[3], 1, 1, 2, 2))
    jobs = tmp_path / "jobs.txt"
    jobs.write_text("\n".join(["A person.@@a.png@@a.wav"] * 5))
    words = ["batch", str(jobs), "--output-dir", str(tmp_path), "--models", str(tiny_release), "--device", "cpu"]
    made = []
    for part in ("1/3", "2/3", "3/3"):
        main([*words, "--shard", part])
        made += re.findall(r"(\d{4}\.mp4): 1 frames", capsys.readouterr().out)
    assert sorted(made) == [f"000{i}.mp4" for i in range(5)]
    for bad in ("0/3", "4/3", "1", "a/b"):
        with pytest.raises(SystemExit):
            main([*words, "--shard", bad])
        assert f"shard {bad!r}: use I/N" in capsys.readouterr().err


def test_a_film_that_is_there_is_kept(tiny_release, tmp_path, capsys):
    jobs = tmp_path / "jobs.txt"
    jobs.write_text("A person.@@a.png@@a.wav")
    (tmp_path / "0000.mp4").write_bytes(b"a film")
    words = ["batch", str(jobs), "--output-dir", str(tmp_path), "--models", str(tiny_release), "--device", "cpu"]
    assert main(words) == 0
    assert (tmp_path / "0000.mp4").read_bytes() == b"a film"
    assert "already exists, kept" in capsys.readouterr().err
