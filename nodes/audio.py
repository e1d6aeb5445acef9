"""Audio node: ComfyUI's AUDIO to wav2vec2 features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..hallo3_core.errors import InputError
from ..hallo3_core.inputs.audio import AudioFeatures, Wav2Vec, encode_audio
from ..hallo3_core.inputs.recording import Recording
from ..hallo3_core.inputs.sound_values import recording_from
from . import types
from .words import FIND, counted

LOAD = "Connect Load Audio."
MOST_CHANNELS = 64  # with more, the axis holds samples
ENCODE_BYTES = 400_000_000  # activations of wav2vec2's convolutions on one chunk of audio
SECOND_BYTES = 3_000_000  # activations of its transformer per second of audio


def recording_of(audio: Any) -> Recording:
    """Converts AUDIO to the core's `Recording`, without resampling.

    Raises:
        InputError: as `recording_from`.
    """
    return recording_from(audio)


def audio_of(recording: Recording) -> dict[str, Any]:
    """Converts a recording to ComfyUI's AUDIO."""
    return {"waveform": recording.waveform[None], "sample_rate": recording.rate}


def portion(recording: Recording, start: float, length: float) -> Recording:
    """The part of a recording from `start` on, in seconds; `length` 0 is all to its end. All of it is itself.

    Raises:
        InputError: the part begins at the end of the recording or after it.
    """
    first = round(start * recording.rate)
    last = recording.samples if length == 0 else min(recording.samples, first + max(1, round(length * recording.rate)))
    if not 0 <= first < recording.samples:
        raise InputError(
            f"start: {start:g} s, but the recording is {recording.seconds:.2f} s long. Start before its end."
        )
    if (first, last) == (0, recording.samples):
        return recording
    return replace(recording, waveform=recording.waveform[:, first:last].contiguous(), mix=None, heard=0.0)


def encode(recording: Recording, wav2vec: types.Network) -> AudioFeatures:
    """Computes the features of a recording with a wav2vec2 that the host's memory manager owns.

    Raises:
        InputError: the recording is not valid audio.
    """
    from .host import memory

    seconds = recording.samples / max(1, recording.rate)
    with memory.on_device(wav2vec, ENCODE_BYTES + seconds * SECOND_BYTES) as holder:
        return encode_audio(recording, Wav2Vec(holder.model))


def summary(features: AudioFeatures) -> str:
    """Duration and loudness of the recording, for the user. A silent recording shows as 0%."""
    heard = f"{features.recording.seconds:.2f} s, loudest sample {features.recording.heard:.0%} of full scale"
    return f"{heard}: {counted(features.frames, 'frame')}, {counted(features.clips, 'clip')}"


class Hallo3AudioEncode:
    """Encodes a recording to wav2vec2 features."""

    CATEGORY = "Hallo3/inputs"
    DESCRIPTION = (
        "Turns a recording of any length, rate and number of channels into what the mouth follows. The whole "
        "recording is encoded at once, and the video is as long as it. Once per recording."
    )
    RETURN_TYPES = (types.AUDIO, "INT", "INT")
    RETURN_NAMES = ("audio", "frames", "clips")
    OUTPUT_TOOLTIPS = (
        "For Hallo3 Sample Clip and Hallo3 Long Video; holds the recording too.",
        "Frames of the video: 25 a second.",
        "Clips of the video, 47 new frames each: the last clip_index is one less.",
    )
    FUNCTION = "execute"
    SEARCH_ALIASES = [*FIND, "voice", "speech", "wav2vec"]

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "audio": (
                    "AUDIO",
                    {
                        "tooltip": "The voice, mono or stereo at any rate. Music beside it disturbs the lips. "
                        "Cost: runs once for each recording; memory grows with its length."
                    },
                ),
                "wav2vec": (types.WAV2VEC, {"tooltip": "wav2vec2-base-960h, from Hallo3 Wav2Vec Loader."}),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def execute(self, audio, wav2vec, node_id=None):
        from .host import progress

        features = encode(recording_of(audio), wav2vec)
        progress.show_text(summary(features), node_id)
        return (features, features.frames, features.clips)


NODES = {"Hallo3AudioEncode": (Hallo3AudioEncode, "Hallo3 Audio Encode")}
