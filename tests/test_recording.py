"""Recordings are read as written, and resampling keeps the timing."""

from __future__ import annotations

import logging
import math
import struct
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hallo3_core.clips import film_frames
from hallo3_core.errors import InputError
from hallo3_core.inputs.mixing import mono_weights, stereo_weights
from hallo3_core.inputs.recording import (
    VOICE_RATE,
    Recording,
    check_recording,
    read_recording,
    resampled,
    to_mono,
)
from hallo3_core.inputs.sound_file import LONGEST, MOST_VALUES

RATE = 48_000


def tone(hertz: float, rate: int, seconds: float = 1.0, size: float = 0.5) -> torch.Tensor:
    return size * torch.sin(2 * math.pi * hertz * torch.arange(int(rate * seconds), dtype=torch.float64) / rate).float()


def write_sound(path, waveform, rate, codec):
    layout = {1: "mono", 2: "stereo"}[waveform.shape[0]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(waveform.numpy(), format="fltp", layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


@pytest.mark.parametrize(
    ("name", "codec", "tolerance"),
    [
        ("a.wav", "pcm_u8", 1 / 128),
        ("a.wav", "pcm_s16le", 1 / 32768),
        ("a.wav", "pcm_s24le", 2e-7),
        ("a.wav", "pcm_s32le", 1e-9),
        ("a.wav", "pcm_f32le", 0),
        ("a.wav", "pcm_f64le", 0),
        ("a.flac", "flac", 1 / 32768),
        ("a.m4a", "alac", 1 / 32768),
        ("a.mp3", "libmp3lame", 0.03),
        ("a.m4a", "aac", 0.03),
        ("a.ogg", "libopus", 0.03),
    ],
)
def test_any_container_gives_back_its_sound(tmp_path, name, codec, tolerance):
    waveform = torch.stack((tone(440, RATE), tone(700, RATE)))
    found = read_recording(write_sound(tmp_path / name, waveform, RATE, codec))
    assert (found.rate, found.name, found.waveform.dtype) == (RATE, name, torch.float32)
    assert found.waveform.shape[0] == 2 and found.samples >= RATE
    steady = slice(0, RATE) if tolerance < 0.01 else slice(16384, RATE - 2048)  # encoders need time to settle
    assert (found.waveform[:, steady] - waveform[:, steady]).abs().max() <= tolerance


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 9])
def test_16_bit_samples_are_exact_whatever_the_channels(tmp_path, channels):
    values = np.random.default_rng(channels).integers(-32768, 32768, (1000, channels)).astype("<i2")
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((channels, 2, 22050, 0, "NONE", ""))
        file.writeframes(values.tobytes())
    found = read_recording(tmp_path / "a.wav")
    assert torch.equal(found.waveform * 32768, torch.from_numpy(values.T.astype(np.float32)))
    assert (found.samples, found.rate, found.seconds) == (1000, 22050, 1000 / 22050)


def test_a_damaged_packet_is_skipped_with_a_warning(tmp_path, caplog):
    path = write_sound(tmp_path / "a.mp3", tone(440, RATE)[None], RATE, "libmp3lame")
    whole = read_recording(path)
    path.write_bytes(path.read_bytes() + b"\xff\xfb\x90\x64" + b"\xff" * 700)
    caplog.clear()
    found = read_recording(path)
    assert torch.equal(found.waveform[:, : whole.samples - 1152], whole.waveform[:, : whole.samples - 1152])
    assert "damaged" in caplog.text and "a.mp3" in caplog.text


def test_a_file_that_is_not_a_recording_is_named(tmp_path):
    (tmp_path / "notes.wav").write_text("not sound")
    with av.open(str(tmp_path / "mute.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 16
        for packet in [*stream.encode(av.VideoFrame(16, 16, "yuv420p")), *stream.encode(None)]:
            container.mux(packet)
    with wave.open(str(tmp_path / "empty.wav"), "wb") as file:
        file.setparams((1, 2, 22050, 0, "NONE", ""))
    for name, reason in (
        ("gone.wav", "no such file"),
        ("", "a folder"),
        ("notes.wav", "not readable"),
        ("mute.mp4", r"no sound in it \(found video\)"),
        ("empty.wav", "no sound in it"),
    ):
        with pytest.raises(InputError, match=reason) as error:
            read_recording(tmp_path / name)
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("waveform", "rate", "reason"),
    [
        (torch.zeros(1, 0), 16000, "no sound"),
        (torch.zeros(0, 10), 16000, "no sound"),
        (torch.zeros(10), 16000, "no sound"),
        (torch.zeros(1, 2, 10), 16000, "no sound"),
        (torch.ones(1, 10, dtype=torch.int16), 16000, "int16"),
        (
            torch.full((1, 10), 3000.0),
            16000,
            r"samples reach 3000, .* Divide by full .* by 70 dB",
        ),
        (torch.full((1, 10), 31.6), 16000, r"samples reach 31.6, .*-1..1\. Lower its volume by 30 dB\.$"),
        (torch.ones(1, 10), 0, "0 samples a second"),
        (torch.ones(1, 10), 44100.5, "44100.5 samples a second"),
        (torch.ones(1, 10), 999, "999 samples a second"),
        (torch.ones(1, 10), 2**31, "2147483648 samples a second"),
        (torch.zeros(1, 1).expand(1, LONGEST * 1000 + 1), 1000, "more than 3 hours"),
        (torch.zeros(1, 1).expand(3, MOST_VALUES // 3 + 1), 192_000, "more than 3 hours"),
        (torch.tensor([[0.1, 0.2], [0.3, math.nan]]), 1000, r"sample 1 \(0.00 s\) of channel 1 is nan"),
        (torch.tensor([[0.1, -math.inf]]), 1000, "sample 1 .* is -inf"),
    ],
)
def test_an_unusable_recording_is_refused(waveform, rate, reason):
    with pytest.raises(InputError, match=reason) as error:
        check_recording(Recording(waveform, rate, "voice.wav"))
    assert str(error.value).startswith("voice.wav: ")


def test_silence_is_accepted_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        check_recording(Recording(tone(440, 16000)[None], 16000, "voice.wav"))
        assert not caplog.records
        found = check_recording(Recording(torch.zeros(2, 10, dtype=torch.float64), 16000, "hush.wav"))
    assert "hush.wav is silent" in caplog.text
    assert found.waveform.dtype == torch.float32 and found.samples == 10


@given(samples=st.integers(1, 3000), rate=st.integers(4000, 200_000))
@settings(max_examples=60, deadline=None)
def test_the_length_is_exact_and_so_are_the_frames(samples, rate):
    recording = Recording(torch.ones(1, samples), rate)
    mono = to_mono(recording)
    assert mono.shape == (math.ceil(Fraction(samples * VOICE_RATE, rate)),)
    assert film_frames(mono.shape[0], VOICE_RATE) == recording.frames == math.ceil(Fraction(25 * samples, rate))
    assert mono.sum() > 0  # audio shorter than the filter is kept too


def test_sound_as_wanted_passes_through_bit_for_bit():
    waveform = torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(to_mono(Recording(waveform, VOICE_RATE)), waveform[0])


def test_channels_are_averaged():
    left, right = tone(300, 44100), tone(1000, 44100)
    both = to_mono(Recording(torch.stack((left, right)), 44100))
    alone = [to_mono(Recording(side[None], 44100)) for side in (left, right)]
    assert (both - (alone[0] + alone[1]) / 2).abs().max() < 1e-6


def db(sound: torch.Tensor, hertz: float) -> float:
    """Level of one frequency in 16 kHz audio of whole seconds, in dB."""
    seconds = len(sound) / VOICE_RATE
    return 20 * math.log10(torch.fft.rfft(sound.double()).abs()[round(hertz * seconds)].item() + 1e-12)


@pytest.mark.parametrize("layout", ["5.1", "5.1(side)", "7.1", "6.1", "3.1", "2.1", "7.1(wide)"])
def test_rumble_does_not_drown_the_voice(tmp_path, layout):
    """The low-frequency channel, 18 dB louder than the voice in the centre (or front) channel, is left out."""
    path, names = tmp_path / "a.wav", [channel.name for channel in av.AudioLayout(layout).channels]
    waveform = torch.zeros(len(names), RATE)
    waveform[names.index("LFE")] = tone(50, RATE, size=0.8)
    for name in ("FC",) if "FC" in names else ("FL", "FR"):
        waveform[names.index(name)] = tone(400, RATE, size=0.1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=RATE, layout=layout)
        frame = av.AudioFrame.from_ndarray(waveform.T.reshape(1, -1).numpy(), format="flt", layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    found = read_recording(path)
    assert found.speakers == tuple(names)
    for recording in (found, Recording(waveform, RATE)) if len(names) > 4 else (found,):  # or by their number
        sound = to_mono(recording)
        assert db(sound, 400) > db(sound, 50) + 38


@pytest.mark.parametrize("gain", [1.0, 0.8, 1.2])
@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_channels_that_cancel_are_warned_of_and_one_is_used(caplog, gain, offset):
    left = tone(300, 44100)
    found = check_recording(Recording(torch.stack((left, -gain * left)) + offset, 44100, "turned.wav"))
    assert "turned.wav: its channels cancel each other" in caplog.text and "silent" not in caplog.text
    assert len(caplog.records) == 1
    assert db(to_mono(found), 300) > db(to_mono(Recording(left[None], 44100)), 300) - 0.1
    check_recording(check_recording(found))
    assert len(caplog.records) == 1


def test_channels_that_differ_do_not_cancel(caplog):
    """Independent channels, an empty one, a softer one with inverted phase, and a delayed one."""
    draw = torch.Generator().manual_seed(0)
    voice, other = torch.randn(2, 20_000, generator=draw) * 0.1
    for channels in ((voice, other), (voice, voice * 0), (voice, -0.3 * voice), (voice, voice.roll(7))):
        check_recording(Recording(torch.stack(channels), 16_000))
    assert not caplog.records


@pytest.mark.parametrize(
    "waveform",
    [
        torch.full((1, 30_000), 0.3),
        torch.full((2, 30_000), -0.9),
        torch.tensor([[0.2], [-0.2]]).expand(2, 30_000),
        torch.zeros(6, 30_000).index_fill(0, torch.tensor(3), 1) * tone(40, 10_000, 3.0),  # low frequencies only
    ],
)
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_what_the_model_hears_is_what_counts_as_silent(caplog, waveform, rate):
    check_recording(Recording(waveform, rate, "hush.wav"))
    assert [record.getMessage() for record in caplog.records] == [
        "hush.wav is silent: the portrait will hardly move its mouth."
    ]


def test_stereo_of_many_channels_never_clips():
    for count in range(1, 25):
        weights = stereo_weights((), count)
        assert weights.shape == (2, count) and weights.sum(1).max() <= 1 + 1e-6
        assert mono_weights((), count).sum().item() == pytest.approx(1)
    left, right = stereo_weights(("FL", "FR", "FC", "LFE", "SL", "SR"), 6)
    assert left[[1, 3, 5]].tolist() == right[[0, 3, 4]].tolist() == [0, 0, 0]
    assert (left[2] / left[0]).item() == pytest.approx(0.5**0.5) and left[2] == right[2]


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000, 96000])
def test_a_click_stays_at_its_second(rate):
    for second in (0.05, 0.5, 0.93):
        waveform = torch.zeros(1, rate)
        click = round(second * rate)
        waveform[0, click] = 1
        found = to_mono(Recording(waveform, rate)).abs().argmax().item()
        assert abs(found / VOICE_RATE - click / rate) <= 1 / VOICE_RATE


@pytest.mark.parametrize("rate", [8000, 11025, 44100])
def test_a_click_stays_at_its_second_for_minutes(tmp_path, rate):
    """Reads from a file. A drift of one frame per hour would be 6 samples here, a hundredth of a frame."""
    waveform = np.zeros(36 * rate, "<i2")
    waveform[click := 35 * rate + 7] = 20_000
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(waveform.tobytes())
    found = to_mono(read_recording(tmp_path / "a.wav"))
    assert found.shape == (36 * VOICE_RATE,)
    assert abs(found.abs().argmax().item() / VOICE_RATE - click / rate) <= 1 / VOICE_RATE


@pytest.mark.parametrize("rate", [22050, 44100, 48000, 96000])
def test_a_sweep_is_that_sweep_at_the_new_rate(rate):
    def sweep(at: int) -> torch.Tensor:
        t = torch.arange(2 * at, dtype=torch.float64) / at
        return (0.5 * torch.sin(2 * math.pi * (100 * t + 1450 * t**2))).float()  # 100 to 5900 Hz

    found, wanted = to_mono(Recording(sweep(rate)[None], rate)), sweep(VOICE_RATE)
    assert (found - wanted)[200:-200].abs().max() < 2e-3


def test_what_the_new_rate_cannot_hold_vanishes():
    found = to_mono(Recording((tone(30_000, 96_000) + tone(1000, 96_000))[None], 96_000))
    assert (found - tone(1000, VOICE_RATE))[200:-200].abs().max() < 1e-4


@pytest.mark.parametrize("size", [37, 1000, 30_000])
def test_the_size_of_the_pieces_does_not_matter(size):
    waveform = torch.randn(2, 44100, generator=torch.Generator().manual_seed(1))
    pieces = torch.cat(list(resampled(waveform.split(size, dim=1), 44100, 48000)), dim=1)
    assert torch.equal(pieces, torch.cat(list(resampled([waveform], 44100, 48000)), dim=1))


@pytest.mark.parametrize(
    ("hertz", "default", "wanted"),
    [
        ((300, 600), None, 300),
        ((300, 600), 2, 600),
        ((0, 600), 1, 600),
        ((0, 0, 900), None, 900),
        ((300, 0), 2, 300),
        ((600, 300, 0), 3, 600),
    ],
)
def test_of_several_tracks_the_default_or_the_first_with_sound_is_heard(tmp_path, caplog, hertz, default, wanted):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in hertz]
        for number, stream in enumerate(streams, start=1):
            stream.disposition = int(number == default)
        for stream, pitch in zip(streams, hertz, strict=True):
            samples = (tone(pitch, 16_000)[None] * 32767).to(torch.int16).numpy()
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), 0
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
    found = to_mono(read_recording(path))
    assert torch.fft.rfft(found).abs().argmax() == wanted
    number = hertz.index(wanted) + 1
    assert [r.getMessage() for r in caplog.records if "sound track" in r.getMessage()] == [
        f"{path}: uses sound track {number} of {len(hertz)}; on the command line --audio-track chooses another."
    ]
    assert "silent" not in caplog.text
    for number, pitch in enumerate(hertz, start=1):
        if pitch:
            assert torch.fft.rfft(to_mono(read_recording(path, number))).abs().argmax() == pitch
    for number in (0, -1, len(hertz) + 1):
        with pytest.raises(InputError, match="no sound track"):
            read_recording(path, number)


@pytest.mark.parametrize("size", [0, 36, 0x7FFF_F024, 0x8000_0024, 0xFFFF_FFF7])
def test_a_streamed_length_is_no_cut(tmp_path, caplog, size):
    """Programs that write wav to a pipe cannot know its length."""
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((tone(300, 16_000) * 32767).to(torch.int16).numpy().tobytes())
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[4:8], content[40:44] = struct.pack("<I", size), struct.pack("<I", max(0, size - 36))
    (tmp_path / "a.wav").write_bytes(content)
    assert read_recording(tmp_path / "a.wav").samples == 16_000
    assert not caplog.records
