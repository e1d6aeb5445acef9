"""Small files of many kinds, made at test time."""

from __future__ import annotations

import struct
import wave
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image


def picture(path: Path, size=(64, 64), colour=(90, 120, 200), **options) -> Path:
    Image.new("RGB", size, colour).save(path, **options)
    return path


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def png(path: Path, width: int, height: int, bits: int, kind: int, rows: bytes) -> Path:
    """A PNG by hand: the kinds that Pillow does not write. Kind 0 grey, 2 RGB."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


def text(path: Path, content: str = "To whom it may concern: this is a letter.\n" * 9) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def tone(seconds: float, rate: int, channels: int = 1, size: float = 0.4) -> np.ndarray:
    """``samples channels``, float64"""
    time = np.arange(max(1, round(seconds * rate))) / rate
    return np.repeat((size * np.sin(2 * np.pi * 220 * time))[:, None], channels, 1)


def wav(path: Path, samples: np.ndarray, rate: int, bits: int = 16) -> Path:
    """Whole numbers of 8 to 32 bits, ``samples channels``."""
    scaled = np.round(samples * (2 ** (bits - 1) - 1)).astype(np.int64)
    if bits == 8:
        scaled += 128  # the one width without a sign
    raw = scaled.astype("<i8").reshape(-1, 1).view(np.uint8)[:, : bits // 8].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setparams((samples.shape[1], bits // 8, rate, 0, "NONE", ""))
        file.writeframes(raw)
    return path


def float_wav(path: Path, samples: np.ndarray, rate: int) -> Path:
    """Floats, which the standard library does not write."""
    channels, body = samples.shape[1], samples.astype("<f4").tobytes()
    form = struct.pack("<HHIIHH", 3, channels, rate, 4 * channels * rate, 4 * channels, 32)
    chunks = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(body)) + body
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


def patched(path: Path, offset: int, content: bytes) -> Path:
    """The file with bytes of its header replaced."""
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(content)] = content
    path.write_bytes(whole)
    return path


def tracks(path: Path, *hertz: float, rate: int = 16_000, default: int | None = None) -> Path:
    """0.2 s of several sound tracks, each a tone (0: silence); track number `default`, from 1, plays by itself."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("flac", rate=rate, layout="mono") for _ in hertz]
        if default is not None:
            for number, stream in enumerate(streams, start=1):
                stream.disposition = int(number == default)
        for stream, pitch in zip(streams, hertz, strict=True):
            samples = 0.4 * np.sin(2 * np.pi * pitch * np.arange(rate // 5) / rate)
            frame = av.AudioFrame.from_ndarray((samples[None] * 32767).astype(np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
    return path


def encoded(
    path: Path, codec: str, seconds: float = 0.2, rate: int = 48_000, pictures: bool = False, **options: str
) -> Path:
    """Sound through an encoder of FFmpeg, with or without pictures beside it; codec "": pictures alone. `options` are
    those of the file's format."""
    with av.open(str(path), "w", options=options) as container:
        packets = []
        video = sound = None
        if pictures:
            video = container.add_stream("libx264", rate=25)
            video.width = video.height = 16
            video.pix_fmt = "yuv420p"
        if codec:
            sound = container.add_stream(codec, rate=rate, layout="mono")
            wave_form = tone(seconds, rate).T.astype(np.float32)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave_form), format="fltp", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
            packets += [*sound.encode(frame), *sound.encode(None)]
        if video:
            for n in range(5):
                shown = av.VideoFrame.from_ndarray(noise(16, 16, seed=n), format="rgb24")
                shown.pts, shown.time_base = n, Fraction(1, 25)
                packets += video.encode(shown)
            packets += video.encode(None)
        for packet in packets:
            container.mux(packet)
    return path
