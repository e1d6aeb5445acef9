"""Videos whose pictures say which they are: number n is a grey of 16 + 3 n on the left, a flash on the right every ten
pictures, red above and blue below; and a click with each flash."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 16_000
HEIGHT, WIDTH = 96, 144
FLASHES = range(5, 1000, 10)


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """``h w 3``, uint8."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = 16 + 3 * number % 240
    image[:, width // 2 :] = 255 if number in FLASHES else 60
    image[:8], image[-8:] = (255, 0, 0), (0, 0, 255)
    return image


def clicks(count: int) -> np.ndarray:
    """As long as `count` pictures, with a click at each flash."""
    sound = np.zeros(count * RATE // 25, np.float32)
    for number in FLASHES:
        sound[number * RATE // 25 : number * RATE // 25 + 80] = 0.6
    return sound


def write(
    path: Path,
    count: int = 60,
    *,
    times: Callable[[int], float] = lambda number: number / 25,
    numbers: Iterable[int] | None = None,
    sound_at: float = 0.0,
    with_sound: bool = True,
    image: Callable[[int], np.ndarray] = picture,
    codec: str = "libx264",
    source: str = "rgb24",
    pixels: str = "yuv444p",
    **settings: object,
) -> Path:
    """A video of pictures shown at these times, in seconds, whose sound begins at `sound_at`. `settings` are set on the
    codec's context."""
    first = image(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=1000, options={"crf": "4"})
        video.height, video.width, video.pix_fmt = *first.shape[:2], pixels
        video.codec_context.time_base = Fraction(1, 1000)
        for name, value in settings.items():
            setattr(video.codec_context, name, value)
        audio = container.add_stream("pcm_s16le" if path.suffix == ".mkv" else "aac", rate=RATE, layout="mono")
        for number in range(count) if numbers is None else numbers:
            frame = av.VideoFrame.from_ndarray(image(number), format=source)
            if "colorspace" in settings:
                frame = frame.reformat(format=pixels, dst_colorspace=settings["colorspace"])
            frame.pts, frame.time_base = round(1000 * times(number)), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        samples = clicks(count) if with_sound else np.zeros(0, np.float32)
        for start in range(0, len(samples), 1024):
            piece = samples[None, start : start + 1024]
            frame = av.AudioFrame.from_ndarray((piece * 32767).astype(np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
            frame.pts = start + round(sound_at * RATE)
            container.mux(audio.encode(frame))
        if with_sound:
            container.mux(audio.encode())
    return path


def turned(path: Path, degrees: int) -> Path:
    """Sets the rotation flag of an mp4, as phones do: players turn it clockwise by so many degrees."""
    content = path.read_bytes()
    at = content.index(b"tkhd") + 4 + 40
    one, zero = (1 << 16).to_bytes(4, "big"), bytes(4)
    minus = (-1 << 16).to_bytes(4, "big", signed=True)
    a, b, c, d = {90: (zero, one, minus, zero), 180: (minus, zero, zero, minus), 270: (zero, minus, one, zero)}[degrees]
    matrix = a + b + zero + c + d + zero
    path.write_bytes(content[:at] + matrix + content[at + len(matrix) :])
    return path
