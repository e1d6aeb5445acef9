"""Separates the voice from music with the audio-separator library, using local models only.

Source: the original separates every recording with Kim_Vocal_2 before it goes to wav2vec2.
"""

from __future__ import annotations

import logging
import tempfile
import wave
from dataclasses import replace
from pathlib import Path
from shutil import which
from types import ModuleType
from typing import Any

import torch
from torch.nn import functional as F

from ..clips import FPS
from ..errors import InputError, Missing, require
from .mixing import mixed, stereo_weights
from .recording import Recording, check_recording, read_recording

PACKAGE = '"audio-separator[cpu]"'  # quoted for the shell
FULL_SCALE = 32767  # of 16-bit audio
STEMS = {"Vocals": "vocals", "Instrumental": "rest"}  # the library's names of the stems, and our file names


def split_voice(recording: Recording, model: Path) -> tuple[Recording, Recording]:
    """Splits a recording into voice and rest, stereo at 44.1 kHz as the library returns them, at the original loudness.

    Raises:
        InputError: an invalid recording, or the library, or a program or file that it needs, is missing.
    """
    recording = check_recording(recording)
    library = require_library()
    loudness = max(1.0, recording.waveform.abs().max().item())  # 16-bit files cannot exceed 1
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound.wav"
        write_wav(sound, replace(recording, waveform=recording.waveform / loudness))
        run_library(library, sound, model)
        parts = [read_recording(sound.with_name(f"{name}.wav")) for name in STEMS.values()]
    voice, rest = (Recording(part.waveform * loudness, part.rate, recording.name) for part in parts)
    return voice, rest


def voice_of(recording: Recording, model: Path) -> Recording:
    """The voice of a recording, padded or cut to the recording's length, so that the film has as many frames.

    Raises:
        InputError: as for `split_voice`.
    """
    voice, _ = split_voice(recording, model)
    exact = -(-recording.samples * voice.rate // recording.rate)
    samples = min(exact, recording.frames * voice.rate // FPS)
    waveform = F.pad(voice.waveform[:, :samples], (0, max(0, samples - voice.samples)))
    return check_recording(Recording(waveform, voice.rate, recording.name, voice.speakers))


def check_separator(model: Path) -> None:
    """Raises InputError if the library is not installed, or ffmpeg, which it calls."""
    require_library()
    if which("ffmpeg") is None:
        raise Missing(f"{model.name} is run by audio-separator, which needs the program ffmpeg: install it.")


def require_library() -> ModuleType:
    """Imports the separation library.

    Raises:
        InputError: it is not installed.
    """
    return require("audio_separator.separator", PACKAGE, "separating the voice from the music")


def run_library(library: Any, sound: Path, model: Path) -> None:
    """Runs the library, which writes `vocals.wav` and `rest.wav` next to `sound`. The only code that depends on the
    library's interface (0.47).

    Raises:
        InputError: the library tries to download a file, or ffmpeg is missing.
    """

    class Separator(library.Separator):
        def download_file_if_not_exists(self, url, output_path):
            """Raises InputError instead of downloading. This is the library's only network access."""
            if not Path(output_path).is_file():
                raise InputError(
                    f"{Path(output_path).name} is missing beside {model.name}: copy it from the folder audio_separator "
                    f"of the Hallo3 release into {model.parent}. Nothing is downloaded here."
                )

    try:
        separator = Separator(
            log_level=logging.WARNING,
            model_file_dir=str(model.parent),
            output_dir=str(sound.parent),
            output_format="WAV",
            normalization_threshold=1.0,
        )
    except FileNotFoundError as error:
        raise InputError("audio-separator needs the program ffmpeg: install it and start again") from error
    separator.load_model(model_filename=model.name)
    separator.separate(str(sound), STEMS)


def write_wav(path: Path, recording: Recording) -> None:
    """Writes a recording in -1..1 as a 16-bit WAV file; more than two channels are mixed to stereo."""
    waveform = recording.waveform
    if len(waveform) > 2:
        waveform = mixed(waveform, stereo_weights(recording.speakers, len(waveform)))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(waveform.shape[0])
        file.setsampwidth(2)
        file.setframerate(recording.rate)
        file.writeframes((waveform.T * FULL_SCALE).round().to(torch.int16).contiguous().numpy().astype("<i2").tobytes())
