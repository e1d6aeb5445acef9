"""The model gets only the separated voice, and the film keeps the full audio."""

from __future__ import annotations

import math
import os
import shutil
import sys
import wave
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from hallo3_core.animate import animate
from hallo3_core.errors import InputError
from hallo3_core.film.writer import read_film
from hallo3_core.inputs.recording import Recording, to_mono
from hallo3_core.inputs.vocals import voice_of, write_wav
from hallo3_core.pipeline.encoding import encode_recording
from hallo3_core.pipeline.networks import Networks
from hallo3_core.pipeline.options import Options, Settings
from hallo3_core.release.layout import VOCALS_FILE, Release

RATE = 44_100  # the library's


def tone(hertz: float, rate: int, samples: int) -> torch.Tensor:
    return 0.4 * torch.sin(2 * math.pi * hertz * torch.arange(samples) / rate)[None]


@pytest.fixture
def release(tiny_release, tmp_path):
    folder = tmp_path / "models"
    shutil.copytree(tiny_release, folder, copy_function=os.link)
    (folder / VOCALS_FILE).parent.mkdir()
    (folder / VOCALS_FILE).touch()
    return Release(folder)


@pytest.fixture
def library(monkeypatch):
    """A fake library that returns a 300 Hz tone as the voice, as long as its input, in stereo at 44.1 kHz."""
    heard = []

    class Separator:
        def __init__(self, *, log_level, model_file_dir, output_dir, output_format, normalization_threshold):
            self.output = Path(output_dir)

        def load_model(self, model_filename):
            assert model_filename == "Kim_Vocal_2.onnx"

        def separate(self, path, names):
            with wave.open(path) as file:
                heard.append(file.getnframes() / file.getframerate())
                samples = round(file.getnframes() * RATE / file.getframerate())
            for stem, pitch in (("Vocals", 300), ("Instrumental", 900)):
                write_wav(self.output / f"{names[stem]}.wav", Recording(tone(pitch, RATE, samples).repeat(2, 1), RATE))

    module = ModuleType("audio_separator.separator")
    module.Separator = Separator
    monkeypatch.setitem(sys.modules, "audio_separator", ModuleType("audio_separator"))
    monkeypatch.setitem(sys.modules, "audio_separator.separator", module)
    monkeypatch.setattr("hallo3_core.inputs.vocals.which", lambda program: f"/usr/bin/{program}")
    return heard


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("frames", [Fraction(1, 100), 1, 5, Fraction(501, 100), Fraction(999, 100)])
def test_a_voice_is_as_many_frames_long_as_its_recording(release, library, rate, frames):
    recording = Recording(tone(700, rate, math.ceil(frames * rate / 25)), rate)
    voice = voice_of(recording, release.vocals_file)
    assert (voice.frames, voice.name, voice.rate) == (recording.frames, "recording", RATE)


@pytest.mark.usefixtures("no_gradients")
def test_the_model_hears_the_voice(release, library):
    recording = Recording(tone(700, 16_000, 16_000), 16_000)
    plain, parted = (encode_recording(recording, Networks(release, Options(vocals=vocals))) for vocals in (False, True))
    assert parted.frames == plain.frames == 25 and not torch.allclose(parted.hidden, plain.hidden, atol=1e-2)
    sound = to_mono(parted.recording)
    assert torch.fft.rfft(sound).abs().argmax() == 300 and len(library) == 1


def test_the_film_keeps_the_whole_sound(release, library, portrait, tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((tone(700, 16_000, 3200)[0].numpy() * 32767).astype("<i2").tobytes())
    options = Options(Settings(1), size=(16, 16), vocals=True)
    animate(portrait, tmp_path / "a.wav", "A person.", tmp_path / "film.mp4", Networks(release, options))
    frames, _, sound = read_film(tmp_path / "film.mp4")
    spectrum = np.abs(np.fft.rfft(sound.waveform[0, :3200].numpy()))
    assert len(frames) == 5 and spectrum.argmax() == 140  # 700 Hz in 0.2 s
    assert library == [0.2]


def test_a_missing_package_or_file_is_reported_before_any_work(release, portrait, short_speech, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "audio_separator", None)
    monkeypatch.delitem(sys.modules, "audio_separator.separator", raising=False)
    args = (portrait, short_speech, "A person.", tmp_path / "film.mp4", Networks(release, Options(vocals=True)))
    with pytest.raises(InputError, match="audio-separator"):
        animate(*args)
    (release.folder / VOCALS_FILE).unlink()
    with pytest.raises(InputError, match="Kim_Vocal_2.onnx: missing from the release folder"):
        animate(*args)
