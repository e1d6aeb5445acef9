"""The example that runs batch on Ray says what it needs; with Ray it makes a film."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "ray_batch.py"


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("ray_batch", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_ray_one_line_says_so(example, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit):
        example.main(["jobs.txt"])
    assert "python -m pip install ray" in capsys.readouterr().err


def test_an_actor_runs_batch_as_one_worker_of_several(example, monkeypatch, tiny_release, tmp_path):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    jobs = tmp_path / "jobs.txt"
    jobs.write_text("A person.@@a.png@@a.wav")
    (tmp_path / "0000.mp4").touch()
    words = [str(jobs), "--models", str(tiny_release), "--output-dir", str(tmp_path), "--device", "cpu"]
    assert example.Worker().run(1, 2, words) == 0
    assert example.Worker().run(1, 2, [*words, "--colour"]) == 2


def test_with_ray_the_films_are_made(example, tiny_release, portrait, short_speech, tmp_path):
    pytest.importorskip("ray")
    jobs = tmp_path / "jobs.txt"
    for file in (portrait, short_speech):
        shutil.copy(file, tmp_path)
    jobs.write_text("\n".join([f"A person.@@{portrait.name}@@{short_speech.name}"] * 2))
    words = [str(jobs), "--models", str(tiny_release), "--output-dir", str(tmp_path), "--device", "cpu"]
    assert example.main(["--workers", "2", *words, "--size", "16x32", "--steps", "1"]) == 0
    assert sorted(p.name for p in tmp_path.glob("*.mp4")) == ["0000.mp4", "0001.mp4"]
