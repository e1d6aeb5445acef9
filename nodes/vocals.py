"""Vocal separation node."""

from __future__ import annotations

from ..hallo3_core.inputs.vocals import split_voice
from .audio import audio_of, recording_of
from .loaders import Loader


class Hallo3SeparateVocals(Loader):
    """Separates the voice from music."""

    SOURCE, FILE = "vocal separation model", "model"
    CATEGORY = "Hallo3/inputs"
    DESCRIPTION = (
        "Separates the voice from music and noise, which disturb the lips, with the release's Kim_Vocal_2. Needs the "
        "package audio-separator and ffmpeg; clean speech does not need this node. Once per recording."
    )
    RETURN_TYPES = ("AUDIO", "AUDIO")
    RETURN_NAMES = ("vocals", "rest")
    OUTPUT_TOOLTIPS = ("The voice alone: for Hallo3 Audio Encode.", "What is left: to be mixed back into the video.")
    SEARCH_ALIASES = ["hallo", "voice", "stem separation", "remove music", "uvr", "mdx"]

    @classmethod
    def INPUT_TYPES(cls):
        model = "Kim_Vocal_2.onnx from the release's audio_separator folder, with the lists that lie beside it."
        audio = (
            "A voice with music or noise, at any rate. Cost: runs once for each recording; time grows with its length."
        )
        return {
            "required": {
                "audio": ("AUDIO", {"tooltip": audio}),
                "model": cls.dropdown(model, "read for each run."),
            }
        }

    def execute(self, audio, model):
        voice, rest = split_voice(recording_of(audio), self.find(model))
        return (audio_of(voice), audio_of(rest))


NODES = {"Hallo3SeparateVocals": (Hallo3SeparateVocals, "Hallo3 Separate Vocals")}
