"""Recordings of every kind, and files that are none. The usual one lasts 0.2 s: 5 frames."""

from __future__ import annotations

import math
import os
import struct
import threading
from pathlib import Path

import numpy as np
import torch

from hallo3_core.inputs.recording import read_recording

from . import Case, Place, case
from .files import encoded, float_wav, patched, picture, text, tone, tracks, wav

RATES = (8_000, 16_000, 44_100, 96_000, 192_000)


def as_audio(path: Path, frames: int | None = 5, samples: np.ndarray | None = None, within: float = 1e-6) -> Case:
    """A recording of so many frames that is read as `samples`, ``samples channels``."""

    def treated() -> None:
        found = read_recording(path).waveform
        torch.testing.assert_close(found, torch.from_numpy(samples.T).float(), atol=within, rtol=0)

    return Case({"--audio": path}, frames=frames, treated=None if samples is None else treated)


def lossy(path: Path) -> Case:
    """What encoders pad: the film is as long as what is decoded, which is 0.2 s and less than 0.1 s more."""
    recording = read_recording(path)
    assert 0.2 <= recording.seconds < 0.3
    return as_audio(path, frames=recording.frames)


for rate in RATES:

    @case(f"sound: {rate / 1000:g} kHz")
    def at_rate(place: Place, rate=rate):
        samples = tone(0.2, rate)
        return as_audio(wav(place.folder / "a.wav", samples, rate), 5, samples, 2.0**-15)


for channels in (2, 3, 6, 8):

    @case(f"sound: {channels} channels")
    def of_channels(place: Place, channels=channels):
        samples = tone(0.2, 16_000, channels)
        return as_audio(wav(place.folder / "a.wav", samples, 16_000), 5, samples, 2.0**-15)


for bits in (8, 24, 32):

    @case(f"sound: wav of {bits} bits")
    def of_bits(place: Place, bits=bits):
        samples = tone(0.2, 16_000)
        return as_audio(wav(place.folder / "a.wav", samples, 16_000, bits), 5, samples, 2.0 ** (2 - bits) + 1e-6)


@case("sound: wav of floats")
def floats(place):
    samples = tone(0.2, 16_000)
    return as_audio(float_wav(place.folder / "a.wav", samples, 16_000), 5, samples)


for name, codec in (("mp3", "libmp3lame"), ("ogg", "libopus"), ("m4a", "aac")):

    @case(f"sound: {name}")
    def compressed(place: Place, name=name, codec=codec):
        return lossy(encoded(place.folder / f"a.{name}", codec))


@case("sound: flac")
def flac(place):
    return as_audio(encoded(place.folder / "a.flac", "flac"))


@case("sound: mp3 named .wav")
def misnamed(place):
    return lossy(encoded(place.folder / "a.mp3", "libmp3lame").rename(place.folder / "a.wav"))


@case("sound: video's")
def of_video(place):
    return lossy(encoded(place.folder / "a.mp4", "aac", pictures=True))


@case("sound: silent")
def silent(place):
    return as_audio(wav(place.folder / "a.wav", np.zeros((3200, 1)), 16_000), 5, np.zeros((3200, 1)))


@case("sound: stereo, one channel inverted")
def turned_over(place):
    samples = tone(0.2, 16_000) * np.array([[1.0, -1.0]])
    return as_audio(wav(place.folder / "a.wav", samples, 16_000), 5, samples, 2.0**-15)


@case("sound: stereo, one channel inverted in a part")
def partly_turned_over(place):
    samples = tone(0.8, 16_000, 2)
    samples[1600:, 1] = -samples[1600:, 0]
    return as_audio(wav(place.folder / "a.wav", samples, 16_000), 20, samples, 2.0**-15)


@case("sound: a constant offset alone")
def constant(place):
    return as_audio(wav(place.folder / "a.wav", np.full((3200, 2), 0.25), 16_000), 5)


def pitch_of(path: Path, track: int | None = None) -> float:
    sound = read_recording(path, track).waveform[0]
    return round(np.abs(np.fft.rfft(sound)).argmax() / (len(sound) / 16_000), -1)


@case("sound: two tracks")
def two_tracks(place):
    path = tracks(place.folder / "a.mkv", 300, 600)

    def treated() -> None:
        assert [pitch_of(path, n) for n in (None, 1, 2)] == [300, 300, 600]

    return Case({"--audio": path}, treated=treated)


@case("sound: two tracks, the first silent")
def first_silent(place):
    path = tracks(place.folder / "a.mkv", 0, 600)
    return Case({"--audio": path}, treated=lambda: pitch_of(path) == 600 or 1 / 0)


@case("sound: two tracks, --audio-track 2")
def second_track(place):
    return Case({"--audio": tracks(place.folder / "a.mkv", 300, 600), "--audio-track": 2})


@case("sound: two tracks, --audio-track 3")
def third_track(place):
    return Case({"--audio": tracks(place.folder / "a.mkv", 300, 600), "--audio-track": 3})


@case("sound: clipped")
def clipped(place):
    samples = np.clip(tone(0.2, 16_000, size=5), -1, 1)
    return as_audio(wav(place.folder / "a.wav", samples, 16_000), 5, samples, 2.0**-14)


@case("sound: one sample")
def one_sample(place):
    return as_audio(wav(place.folder / "a.wav", np.full((1, 1), 0.5), 16_000), 1)


@case("sound: 3 ms")
def short(place):
    return as_audio(wav(place.folder / "a.wav", tone(0.003, 44_100), 44_100), 1)


@case("sound: header says more than there is")
def boastful(place):
    path = wav(place.folder / "a.wav", tone(0.2, 16_000), 16_000)
    return as_audio(patched(patched(path, 4, struct.pack("<I", 1_000_000)), 40, struct.pack("<I", 999_964)))


@case("sound: header says less than there is")
def modest(place):
    path = wav(place.folder / "a.wav", tone(0.4, 16_000), 16_000)
    return as_audio(patched(path, 40, struct.pack("<I", 6_400)))


@case("sound: header does not say how much")
def streamed(place):
    path = wav(place.folder / "a.wav", tone(0.2, 16_000), 16_000)
    return as_audio(patched(patched(path, 4, b"\xff" * 4), 40, b"\xff" * 4))


@case("sound: header says 2 GB, as some streams do")
def two_gigabytes(place):
    """As SoX writes into a pipe."""
    path = wav(place.folder / "a.wav", tone(0.2, 16_000), 16_000)
    return as_audio(patched(patched(path, 4, struct.pack("<I", 0x7FFF_F024)), 40, struct.pack("<I", 0x7FFF_F000)))


@case("sound: header says 0 bytes")
def no_length(place):
    path = wav(place.folder / "a.wav", tone(0.2, 16_000), 16_000)
    return as_audio(patched(patched(path, 4, bytes(4)), 40, bytes(4)))


@case("sound: flac of unknown length")
def endless_flac(place):
    """Total samples: the 36 bits from the lower half of byte 21 on."""
    path = encoded(place.folder / "a.flac", "flac")
    return as_audio(patched(path, 21, bytes([path.read_bytes()[21] & 0xF0, 0, 0, 0, 0])))


def through_pipe(place: Place, content: bytes, frames: int | None = 5) -> Case:
    """A named pipe into which another thread writes once it is opened."""
    path = place.folder / "pipe"
    os.mkfifo(path)
    threading.Thread(target=lambda: path.write_bytes(content), daemon=True).start()
    return Case({"--audio": path}, frames=frames)


@case("sound: named pipe")
def named_pipe(place):
    return through_pipe(place, place.speech.read_bytes())


@case("sound: named pipe that delivers nothing")
def dry_pipe(place):
    return through_pipe(place, b"")


@case("sound: flac cut short")
def cut(place):
    path = encoded(place.folder / "a.flac", "flac", seconds=2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return as_audio(path, frames=read_recording(path).frames)


@case("sound: two hours")
def two_hours(place):
    """Read and counted; a film of it is not made here."""
    path = wav(place.folder / "long.wav", np.zeros((2 * 3600 * 1000, 1), np.int8), 1_000, 8)

    def read() -> None:
        recording = read_recording(path)
        assert recording.seconds == 7200 and recording.frames == 180_000

    return Case(read=read, frames=None)


@case("sound: four hours")
def four_hours(place):
    return as_audio(wav(place.folder / "long.wav", np.zeros((4 * 3600 * 1000, 1), np.int8), 1_000, 8))


@case("sound: NaN in it")
def nan(place):
    samples = tone(0.2, 16_000)
    samples[7] = math.nan
    return as_audio(float_wav(place.folder / "a.wav", samples, 16_000))


@case("sound: infinity in it")
def infinite(place):
    samples = tone(0.2, 16_000)
    samples[9] = -math.inf
    return as_audio(float_wav(place.folder / "a.wav", samples, 16_000))


@case("sound: floats that are whole numbers")
def undivided(place):
    return as_audio(float_wav(place.folder / "a.wav", tone(0.2, 16_000, size=30_000), 16_000))


@case("sound: turned up by 40 dB")
def too_loud(place):
    return as_audio(float_wav(place.folder / "a.wav", tone(0.2, 16_000, size=40.0), 16_000))


@case("sound: header says 2 GHz")
def absurd_rate(place):
    path = wav(place.folder / "a.wav", tone(0.2, 16_000), 16_000)
    return as_audio(patched(path, 24, struct.pack("<I", 2_000_000_000)))


@case("sound: header says 10 Hz")
def slow_rate(place):
    return as_audio(patched(wav(place.folder / "a.wav", tone(0.2, 16_000), 16_000), 24, struct.pack("<I", 10)))


@case("sound: no samples")
def no_samples(place):
    return as_audio(wav(place.folder / "a.wav", np.zeros((0, 1)), 16_000))


@case("sound: empty file")
def empty(place):
    (place.folder / "a.wav").touch()
    return as_audio(place.folder / "a.wav")


@case("sound: text named .wav")
def letter(place):
    return as_audio(text(place.folder / "letter.wav"))


@case("sound: picture")
def a_picture(place):
    return as_audio(picture(place.folder / "flat.png"))


@case("sound: video without sound")
def mute(place):
    return as_audio(encoded(place.folder / "mute.mp4", "", pictures=True))


@case("sound: playlist")
def playlist(place):
    listed = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{place.speech}\n#EXT-X-ENDLIST\n"
    return as_audio(text(place.folder / "list.m3u8", listed))


@case("sound: list of files to join")
def joined(place):
    (place.folder / "a.wav").write_bytes(place.speech.read_bytes())
    return as_audio(text(place.folder / "list.wav", "ffconcat version 1.0\nfile a.wav\n"))


@case("sound: DTS")
def dts(place):
    (place.folder / "a.dts").write_bytes(b"\x7f\xfe\x80\x01" + bytes(2000))
    return as_audio(place.folder / "a.dts")


@case("sound: voc")
def voc(place):
    return as_audio(encoded(place.folder / "a.voc", "pcm_s16le"))


@case("sound: MXF")
def mxf(place):
    return as_audio(encoded(place.folder / "a.mxf", "pcm_s16le", pictures=True))


@case("sound: MIDI")
def midi(place):
    (place.folder / "a.mid").write_bytes(b"MThd\0\0\0\x06\0\0\0\x01\0\x60MTrk\0\0\0\x04\0\xff\x2f\0")
    return as_audio(place.folder / "a.mid")


@case("sound: m4a without its index")
def no_index(place):
    path = encoded(place.folder / "a.m4a", "aac")
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"moov") - 4])
    return as_audio(path)


@case("sound: encrypted m4a")
def encrypted(place):
    keys = {"encryption_key": "76a6c65c5ea762046bd749a2e632ccbb", "encryption_kid": "a7e61c373e219033c21091fa607bf3b8"}
    return as_audio(encoded(place.folder / "a.m4a", "aac", encryption_scheme="cenc-aes-ctr", **keys))


@case("sound: m4a of a shop")
def of_a_shop(place):
    path = encoded(place.folder / "a.m4a", "aac")
    path.write_bytes(path.read_bytes().replace(b"mp4a", b"drms"))
    return as_audio(path)


def joined_ogg(place: Place, *codecs: str) -> Path:
    """Ogg files of 0.2 s, one after the other in one file."""
    parts = [encoded(place.folder / f"{n}.ogg", codec) for n, codec in enumerate(codecs)]
    (place.folder / "a.ogg").write_bytes(b"".join(part.read_bytes() for part in parts))
    return place.folder / "a.ogg"


@case("sound: ogg of two recordings of different kinds")
def two_kinds(place):
    return as_audio(joined_ogg(place, "libopus", "flac"))


@case("sound: ogg of two recordings alike")
def chained(place):
    path = joined_ogg(place, "libopus", "libopus")
    return as_audio(path, frames=read_recording(path).frames)


@case("sound: codec that FFmpeg does not know")
def unknown_codec(place):
    path = encoded(place.folder / "a.mka", "libopus")
    path.write_bytes(path.read_bytes().replace(b"A_OPUS", b"A_OPUZ"))
    return as_audio(path)


@case("sound: folder")
def folder(place):
    return as_audio(place.folder)


@case("sound: not there")
def missing(place):
    return as_audio(place.folder / "none.wav")
