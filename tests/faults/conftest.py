"""A film of six clips at the smallest sizes, made in children of one process that has imported everything."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from hallo3_core.film.writer import read_film

STEPS = 2
if not hasattr(os, "fork"):
    collect_ignore_glob = ["test_*.py"]


def write_speech(path: Path, clips: int) -> Path:
    """Sound for so many clips, of which the last adds two frames."""
    rate = 16_000
    seconds = np.arange(round(((clips - 1) * 47 + 2) / 25 * rate)) / rate
    sound = np.sin(2 * np.pi * 180 * seconds) * np.sin(2 * np.pi * 3 * seconds)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound * 20_000).astype("<i2").tobytes())
    return path


@dataclass
class Run:
    """A child that is at work, or was."""

    forge: Forge
    pid: int
    report: Path

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code; negative: the signal that killed it."""
        return self.forge.ask({"wait": self.pid})

    def wait_until_stopped(self) -> bool:
        """Whether it has stopped itself; False if it ended instead."""
        return bool(self.forge.ask({"stopped": self.pid}))

    @property
    def said(self) -> str:
        return self.report.read_text()


class Forge:
    """The process of `forge.py`."""

    def __init__(self, scratch: Path):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, str(Path(__file__).with_name("forge.py"))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=scratch
        )
        self._scratch, self._count = scratch, 0

    def ask(self, job: dict) -> int:
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, command: list[str], faults=()) -> Run:
        self._count += 1
        report = self._scratch / f"report{self._count}.txt"
        return Run(self, self.ask({"command": command, "faults": list(faults), "report": str(report)}), report)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


class Set:
    """A folder in which one film is made, again and again."""

    def __init__(self, forge: Forge, folder: Path, words: list[str]):
        self.forge, self.folder, self._words = forge, folder, words

    output = property(lambda self: self.folder / "film.mp4")
    work = property(lambda self: self.folder / ".film.mp4.work")

    @property
    def take(self) -> Path:
        """The folder of the clips with the usual settings; the first one if there are several."""
        return next(iter(sorted(self.work.glob("*/"))), self.work)

    def start(self, *options: str, faults=()) -> Run:
        return self.forge.start([*self._words, "--output", str(self.output), *options], faults)

    def make(self, *options: str, faults=()) -> tuple[int, str]:
        """Exit code, and all that was said."""
        run = self.start(*options, faults=faults)
        return run.wait(), run.said

    def kept(self) -> int:
        """Clips that the manifest counts."""
        return sum(len(json.loads(path.read_text())["clips"]) for path in self.work.glob("*/manifest.json"))

    def film(self) -> str:
        """What identifies the film: every byte of it."""
        return hashlib.sha256(self.output.read_bytes()).hexdigest()

    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture(scope="session")
def forge(tmp_path_factory):
    forge = Forge(tmp_path_factory.mktemp("forge"))
    yield forge
    forge.close()


@pytest.fixture(scope="session")
def words_for(tiny_release, portrait, tmp_path_factory):
    """`words_for(clips)`: the command line of a film of so many clips, but for its output."""

    def words(clips: int) -> list[str]:
        speech = write_speech(tmp_path_factory.mktemp("sound") / "speech.wav", clips)
        inputs = {"--image": portrait, "--audio": speech, "--prompt": "A person talks.", "--models": tiny_release}
        small = ["--size", "16x16", "--steps", str(STEPS), "--device", "cpu", "--seed", "5"]
        return ["animate", *(str(word) for pair in inputs.items() for word in pair), *small]

    return words


@dataclass
class Whole:
    """A film that nothing disturbed."""

    words: list[str]
    film: str
    frames: Tensor


@pytest.fixture(scope="session")
def make_whole(forge, words_for, tmp_path_factory):
    def make(clips: int) -> Whole:
        words = words_for(clips)
        stage = Set(forge, tmp_path_factory.mktemp("whole"), words)
        code, said = stage.make()
        assert code == 0, said
        assert stage.left() == ["film.mp4"]
        return Whole(words, stage.film(), read_film(stage.output)[0])

    return make


@pytest.fixture(scope="session")
def whole(make_whole) -> Whole:
    """Of three clips."""
    return make_whole(3)


@pytest.fixture
def stage(forge, tmp_path, whole) -> Set:
    return Set(forge, tmp_path, whole.words)
