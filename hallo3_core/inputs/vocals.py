"""The voice without the music, by the audio-separator library, from models on this disk alone.

Source: the original separates every recording with Kim_Vocal_2 before wav2vec2 hears it.
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
from ..errors import InputError, require
from .mixing import mixed, stereo_weights
from .recording import Recording, check_recording, read_recording

FULL_SCALE = 32767  # of 16-bit sound
STEMS = {"Vocals": "vocals", "Instrumental": "rest"}  # the library's names of the two parts, and those of our files


def split_voice(recording: Recording, model: Path) -> tuple[Recording, Recording]:
    """Voice and rest of a recording, stereo at 44.1 kHz as the library gives them, as loud as they came.

    Raises:
        InputError: not sound, the library or a program or file that it needs is missing.
    """
    recording = check_recording(recording)
    library = require_library()
    loudness = max(1.0, recording.waveform.abs().max().item())  # 16 bits hold no more than 1
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound.wav"
        write_wav(sound, replace(recording, waveform=recording.waveform / loudness))
        run_library(library, sound, model)
        parts = [read_recording(sound.with_name(f"{name}.wav")) for name in STEMS.values()]
    voice, rest = (Recording(part.waveform * loudness, part.rate, recording.name) for part in parts)
    return voice, rest


def voice_of(recording: Recording, model: Path) -> Recording:
    """The voice of a recording alone, exactly as many frames of a film long as the recording.

    Raises:
        InputError: as `split_voice`.
    """
    voice, _ = split_voice(recording, model)
    exact = -(-recording.samples * voice.rate // recording.rate)
    samples = min(exact, recording.frames * voice.rate // FPS)
    waveform = F.pad(voice.waveform[:, :samples], (0, max(0, samples - voice.samples)))
    return check_recording(Recording(waveform, voice.rate, recording.name, voice.speakers))


def check_separator(model: Path) -> None:
    """Raises InputError where the library, or ffmpeg, which it calls, is not there."""
    require_library()
    if which("ffmpeg") is None:
        raise InputError(f"{model.name} is run by audio-separator, which needs the program ffmpeg: install it.")


def require_library() -> ModuleType:
    """The library that parts sound.

    Raises:
        InputError: it is not installed.
    """
    return require("audio_separator.separator", '"audio-separator[cpu]"', "parting the voice from music")


def run_library(library: Any, sound: Path, model: Path) -> None:
    """Have `vocals.wav` and `rest.wav` written beside `sound`. The one place that knows the library (0.47).

    Raises:
        InputError: the library wants to download a file, or lacks ffmpeg.
    """

    class Separator(library.Separator):
        def download_file_if_not_exists(self, url, output_path):
            """The library's one way to the network, closed."""
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
    """A recording in -1..1 as a WAV file of 16 bits; more than two channels are mixed to two."""
    waveform = recording.waveform
    if len(waveform) > 2:
        waveform = mixed(waveform, stereo_weights(recording.speakers, len(waveform)))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(waveform.shape[0])
        file.setsampwidth(2)
        file.setframerate(recording.rate)
        file.writeframes((waveform.T * FULL_SCALE).round().to(torch.int16).contiguous().numpy().astype("<i2").tobytes())
