"""What the model hears where a recording's channels cancel each other."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hallo3_core.inputs.mixing import mixed, mono_weights
from hallo3_core.inputs.recording import VOICE_RATE, Recording, check_recording, read_recording, to_mono
from hallo3_core.inputs.samples import SPEECH

RATE = 16_000


@pytest.fixture(scope="module")
def voice() -> torch.Tensor:
    """3.6 s of speech at 16 kHz, with pauses."""
    return read_recording(SPEECH).waveform[0]


def inverted(sound: torch.Tensor, *spans: tuple[float, float], channel: int = 1, gain: float = 1.0) -> torch.Tensor:
    """A stereo recording with one channel inverted between such seconds."""
    stereo = torch.stack((sound, sound))
    for start, stop in spans:
        stereo[channel, round(start * RATE) : round(stop * RATE)] *= -gain
    return stereo


def test_the_voice_is_kept_where_the_channels_cancel(voice, caplog):
    found = to_mono(Recording(inverted(voice, (1.8, 3.6)), RATE, "part.wav"))
    assert [record.getMessage() for record in caplog.records] == [
        "part.wav: its channels cancel each other in a part of it (1.8 to 3.6 s), so one may be inverted: there the "
        "mouth follows channel 1 alone."
    ]
    lost = (found - voice).abs() > 1e-3
    assert lost.sum() <= 0.06 * RATE, "at most the window in which it begins, and its crossfade"


@pytest.mark.parametrize(("gain", "louder"), [(0.8, 1), (1.2, 2)])
def test_the_louder_channel_is_heard_there(voice, caplog, gain, louder):
    found = to_mono(Recording(inverted(voice, (0.4, 1.6), gain=gain), RATE))
    assert f"there the mouth follows channel {louder} alone" in caplog.text
    middle = slice(round(0.6 * RATE), round(1.4 * RATE))
    expected = voice if louder == 1 else -gain * voice
    assert torch.equal(found[middle], expected[middle])


def test_several_parts_are_counted_and_the_rest_is_mixed(voice, caplog):
    long = voice.repeat(4)
    spans = [(1 + 2.5 * number, 2.2 + 2.5 * number) for number in range(5)]
    stereo = inverted(long, *spans)
    stereo[1] += 0.003 * torch.randn(len(long), generator=torch.Generator().manual_seed(0))
    found = to_mono(Recording(stereo, RATE, "many.wav"))
    assert "s, 6." in caplog.text and " and 2 more)" in caplog.text and len(caplog.records) == 1
    usual = mixed(stereo, mono_weights((), 2)[None])[0]
    outside = torch.ones(len(long), dtype=torch.bool)
    for start, stop in spans:
        outside[round((start - 0.1) * RATE) : round((stop + 0.1) * RATE)] = False
    assert torch.equal(found[outside], usual[outside])


def test_the_switch_makes_no_click():
    """A tone in both channels that is inverted on one side of a moment has no step there."""
    tone = 0.5 * torch.sin(2 * math.pi * 200 * torch.arange(2 * RATE) / RATE)
    found = to_mono(Recording(inverted(tone, (0.97, 2)), RATE))
    jumps = found.diff().abs()
    jumps[round(0.97 * RATE) - 1] = 0  # the inversion's own
    assert jumps.max() <= 1.05 * 0.5 * 2 * math.pi * 200 / RATE, "no steeper than the tone"


@pytest.mark.parametrize("delay", [0, 3, 16, 32, 64])
def test_ordinary_stereo_is_mixed_as_ever(voice, caplog, delay):
    """Two microphones, a panned voice, and a room's reverberation: bit for bit the weighted sum."""
    draw = torch.Generator().manual_seed(delay)
    decay = torch.exp(-torch.arange(4000) / 800)
    room = [torch.randn(4000, generator=draw) * decay for _ in range(2)]
    size = len(voice) + 4000
    echoes = [torch.fft.irfft(torch.fft.rfft(voice, size) * torch.fft.rfft(each, size))[: len(voice)] for each in room]
    stereo = torch.stack((voice, 0.7 * voice.roll(delay))) + 0.02 * torch.stack(echoes)
    found = to_mono(Recording(stereo, RATE))
    assert not caplog.records
    assert torch.equal(found, mixed(stereo, mono_weights((), 2)[None])[0])


def test_a_hum_in_the_pauses_decides_nothing(voice, caplog):
    """Hum 40 dB below the voice that cancels wherever the voice rests stays cancelled."""
    level = voice.square().mean().sqrt() * 0.01 * 2**0.5
    hum = level * torch.sin(2 * math.pi * 50 * torch.arange(3 * len(voice)) / RATE)
    long = torch.cat((voice, torch.zeros_like(voice), voice))
    found = to_mono(Recording(torch.stack((long + hum, long - hum)), RATE))
    assert not caplog.records and found[len(voice) : 2 * len(voice)].abs().max() < 1e-6


def test_surround_sound_is_judged_in_parts_too(voice, caplog):
    """A centre speaker that cancels left and right for a while; rumble in the low-frequency channel does not count."""
    waveform = torch.zeros(6, len(voice))
    weights = mono_weights((), 6)
    part = slice(round(0.5 * RATE), round(1.5 * RATE))
    waveform[2] = voice
    waveform[0, part] = -voice[part] * weights[2] / weights[0]
    waveform[3] = 0.9
    found = to_mono(Recording(waveform, RATE))
    assert "0.5 to 1.5 s" in caplog.text
    inside = slice(round(0.6 * RATE), round(1.4 * RATE))
    assert found[inside].square().mean() > 0.5 * (voice[inside] * weights[2]).square().mean()


@given(start=st.floats(0.1, 1.5), length=st.floats(0.5, 1.5), size=st.integers(1000, 90_000))
@settings(max_examples=5, deadline=None)
def test_the_size_of_the_chunks_does_not_matter(start, length, size):
    tone = torch.randn(round(3.2 * RATE), generator=torch.Generator().manual_seed(1)) * 0.1
    recording = check_recording(Recording(inverted(tone, (start, start + length)), RATE))
    assert recording.mix.alone
    whole = torch.cat(list(recording.mix.of([recording.waveform])), dim=1)
    chunks = torch.cat(list(recording.mix.of(recording.waveform.split(size, dim=1))), dim=1)
    torch.testing.assert_close(chunks, whole, atol=1e-7, rtol=0)
    assert whole.unfold(1, RATE // 25, RATE // 25).std(2).min() > 0.02 or length < 1, "no silence of a frame"
    assert to_mono(recording).shape[0] == -(-recording.samples * VOICE_RATE // RATE)
