"""The voice without the music, by the audio-separator library, from models on this disk alone."""

from __future__ import annotations

import logging
import tempfile
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..hallo3_core.errors import InputError, require
from ..hallo3_core.inputs.mixing import mixed, stereo_weights
from ..hallo3_core.inputs.recording import Recording, check_recording, read_recording
from .audio import audio_of, recording_of
from .loaders import AUTO

FULL_SCALE = 32767  # of 16-bit sound
STEMS = {"Vocals": "vocals", "Instrumental": "rest"}  # the library's names of the two parts, and those of our files


def split_voice(recording: Recording, model: Path) -> tuple[Recording, Recording]:
    """Voice and rest of a recording, stereo at 44.1 kHz as the library gives them, as loud as they came.

    Raises:
        InputError: not sound, the library or a program or file that it needs is missing.
    """
    recording = check_recording(recording)
    library = require("audio_separator.separator", '"audio-separator[cpu]"', "parting the voice from music")
    loudness = max(1.0, recording.waveform.abs().max().item())  # 16 bits hold no more than 1
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound.wav"
        write_wav(sound, replace(recording, waveform=recording.waveform / loudness))
        run_library(library, sound, model)
        parts = [read_recording(sound.with_name(f"{name}.wav")) for name in STEMS.values()]
    voice, rest = (Recording(part.waveform * loudness, part.rate, part.name) for part in parts)
    return voice, rest


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
        raise InputError("audio-separator needs the program ffmpeg: install it and restart ComfyUI") from error
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


class Hallo3SeparateVocals:
    """Voice and music apart."""

    CATEGORY = "Hallo3/inputs"
    DESCRIPTION = (
        "Parts the voice from music and noise, which disturb the lips, with the release's Kim_Vocal_2. Needs the "
        "package audio-separator and ffmpeg; clean speech does not need this node. Once per recording."
    )
    RETURN_TYPES = ("AUDIO", "AUDIO")
    RETURN_NAMES = ("vocals", "rest")
    OUTPUT_TOOLTIPS = ("The voice alone: for Hallo3 Audio Encode.", "What is left: to be mixed back into the video.")
    FUNCTION = "execute"
    SEARCH_ALIASES = ["hallo", "voice", "stem separation", "remove music", "uvr", "mdx"]

    @classmethod
    def INPUT_TYPES(cls):
        from .host import vocals

        model = "Kim_Vocal_2.onnx from the release's audio_separator folder, with the lists that lie beside it."
        return {
            "required": {
                "audio": ("AUDIO", {"tooltip": "A voice with music or noise, at any rate."}),
                "model": (vocals.SOURCE.offered(), {"tooltip": f"{model} {AUTO}"}),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, model):
        return True  # a file that is not there is told by `execute`, in words

    def execute(self, audio, model):
        from .host import vocals

        voice, rest = split_voice(recording_of(audio), vocals.SOURCE.find(model))
        return (audio_of(voice), audio_of(rest))


NODES = {"Hallo3SeparateVocals": (Hallo3SeparateVocals, "Hallo3 Separate Vocals")}
