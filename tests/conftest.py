"""Shared fixtures: the toy release, written once per session, and inputs short enough to run in seconds."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, settings

quick = dict(max_examples=15, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
settings.register_profile("mutants", deadline=None, **quick)  # see tests/mutation
settings.register_profile("project", deadline=None)  # no deadline, since test machines are shared
settings.load_profile("project")

ASSETS = Path(__file__).parents[1] / "assets"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Captured output may hold names that are not UTF-8, which xdist cannot send to its main process."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def tiny_release(tmp_path_factory) -> Path:
    from hallo3_core.toy.noise_release import write_tiny_release

    return write_tiny_release(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def portrait(tmp_path_factory) -> Path:
    """A square around the sample person's face."""
    from PIL import Image

    path = tmp_path_factory.mktemp("portrait") / "portrait.png"
    Image.open(ASSETS / "portrait.jpg").crop((120, 0, 600, 480)).save(path)
    return path


@pytest.fixture(scope="session")
def speech() -> Path:
    """Speech of 3.6 s: 90 frames, two clips."""
    return ASSETS / "speech.flac"


@pytest.fixture(scope="session")
def short_speech(tmp_path_factory) -> Path:
    """A tone of 0.3 s at 22.05 kHz: 8 frames, one clip."""
    path = tmp_path_factory.mktemp("sound") / "short.wav"
    rate = 22_050
    seconds = np.arange(int(0.3 * rate)) / rate
    tone = np.sin(2 * np.pi * 180 * seconds) * np.sin(2 * np.pi * 4 * seconds)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((tone * 20_000).astype("<i2").tobytes())
    return path


@pytest.fixture
def no_gradients():
    """Runs the test in inference mode."""
    import torch

    with torch.inference_mode():
        yield
