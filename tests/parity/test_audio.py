"""The recorded audio path: from a waveform to what each clip's denoiser receives."""

from __future__ import annotations

import pytest
import torch

from hallo3_core import clips
from hallo3_core.inputs import audio
from hallo3_core.inputs.recording import VOICE_RATE, Recording, to_mono


@pytest.fixture(scope="module")
def wav2vec(golden_dir):
    return audio.load_wav2vec(golden_dir / "audio_tiny_wav2vec")


@pytest.fixture(scope="module")
def recording_set(recorded):
    return recorded("audio")


def lengths(recording_set) -> list[str]:
    found = [f"a{n}" for n in recording_set.numbers("a#.waveform")]
    assert found
    return found


def test_waveform_to_padded_input(recording_set, table):
    for a in lengths(recording_set):
        sound = Recording(recording_set[f"{a}.waveform"][None], VOICE_RATE)
        mono = to_mono(sound)
        table.exactly(recording_set, f"{a}.normalised_samples", mono.shape[0])
        table.exactly(recording_set, f"{a}.frames", sound.frames)
        table.exactly(recording_set, f"{a}.final_frames", sound.frames)
        table.meets(recording_set, f"{a}.padded_input", audio.padded_signal(mono)[None])


def test_padded_input_to_convolved_features(recording_set, table, wav2vec):
    for a in lengths(recording_set):
        signal = recording_set[f"{a}.padded_input"][0]
        for piece in (audio.PIECE_STEPS, 40):
            table.meets(recording_set, f"{a}.conv_features", audio.convolve(wav2vec.model, signal, piece)[None])


def test_convolved_features_to_hidden(recording_set, table, wav2vec):
    for a in lengths(recording_set):
        padded = audio.padded_frames(recording_set[f"{a}.frames"].item())
        found = audio.encode_features(recording_set[f"{a}.conv_features"][0], padded, wav2vec)
        table.meets(recording_set, f"{a}.hidden", found)


def test_hidden_to_windows_and_clips(recording_set, table):
    for a in lengths(recording_set):
        hidden = recording_set[f"{a}.hidden"]
        table.exactly(recording_set, f"{a}.clip_count", clips.Timeline(hidden.shape[0]).clips)
        table.meets(recording_set, f"{a}.windowed", audio.windows(hidden, torch.arange(hidden.shape[0])))
        for n in range(clips.Timeline(hidden.shape[0]).clips):
            table.meets(recording_set, f"{a}.clip{n}", audio.clip_windows(hidden, n)[None])


def test_waveform_to_clips(recording_set, table, wav2vec):
    for a in lengths(recording_set):
        features = audio.encode_audio(Recording(recording_set[f"{a}.waveform"][None], VOICE_RATE), wav2vec)
        table.exactly(recording_set, f"{a}.frames", features.frames)
        table.meets(recording_set, f"{a}.hidden", features.hidden)
        for n in range(features.clips):
            table.meets(recording_set, f"{a}.clip{n}", audio.clip_audio(features, n)[None])
