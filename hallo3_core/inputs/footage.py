"""Reads a video as a player shows it: upright, square pixels, standard dynamic range, 25 pictures a second.

A file's own clock decides which picture belongs to which moment, so variable rates, missing frames and sound that
begins earlier or later than the pictures stay in time. Memory is flat: pictures are decoded one after another.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..clips import FPS
from ..errors import InputError, require
from .dynamic_range import TRANSFERS, to_standard
from .recording import Recording, check_recording, read_recording
from .sound_file import OPEN_OPTIONS, is_cover, open_media

HELD = 5  # pictures in a row that may be missing before a warning: 0.2 s
SHORTEST_SIDE = 16  # pixels: smaller pictures show nothing, and scalers fail
_BT601, _BT709, _UNSPECIFIED = 5, 1, 2  # of H.273's matrix coefficients
_HD = (1280, 576)  # width and height from which players take untagged pictures for BT.709

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Footage:
    """A video file's pictures as a player shows them.

    count: pictures at 25 a second; height, width: of an upright picture with square pixels; rate: the file's own
    average rate; start: when the first picture is shown, in seconds of the file's clock; held: the longest run of
    pictures that repeat one because the file has none there; coded: the file's own pictures, whatever their times.
    """

    path: Path
    count: int
    height: int
    width: int
    rate: Fraction
    start: Fraction
    held: int
    coded: bool = False

    def pictures(self, wanted: Iterable[int] | None = None) -> Iterator[Tensor]:
        """Decodes pictures in order, uint8 ``3 h w``: all, or those with the `wanted` numbers (ascending).

        Raises:
            InputError: nothing of the video can be decoded.
        """
        numbers = iter(range(self.count) if wanted is None else wanted)
        number = next(numbers, None)
        with _opened(self.path) as (_, stream, container):
            show, held = _Show(stream, (self.height, self.width)), None
            for place, frame in enumerate(_decoded(container, stream)):
                tick = place if self.coded else _tick(_time(frame) - self.start)
                while held is not None and number is not None and number < tick:
                    yield show(held)
                    number = next(numbers, None)
                if number is None:
                    return
                held = frame
            if held is None:
                raise InputError(f"{self.path}: none of its pictures can be decoded. Save the video again.")
            while number is not None and number < self.count:
                yield show(held)
                number = next(numbers, None)

    def sound(self, track: int | None = None) -> Recording:
        """The sound from the first picture on: silence is added, or sound cut, where one begins before the other."""
        recording = read_recording(self.path, track)
        early = round((float(self.start) - recording.start) * recording.rate)
        if early == 0:
            return recording
        if early >= recording.samples:
            raise InputError(f"{self.path}: its sound ends before its first picture. Save the video again.")
        waveform, start = F.pad(recording.waveform, (-early, 0)), float(self.start)
        return check_recording(Recording(waveform, recording.rate, recording.name, recording.speakers, start=start))


def open_footage(path: Path, coded: bool = False) -> Footage:
    """Looks at a video without decoding more than its first picture. `coded`: its own pictures, one by one, for lists
    that have values per picture of the file.

    Raises:
        InputError: missing, unreadable, without pictures, or smaller than 16 pixels.
    """
    with _opened(path) as (_, stream, container):
        times, end = _packet_times(container, stream)
    with _opened(path) as (_, stream, container):
        first = next(_decoded(container, stream), None)
        if first is None:
            raise InputError(f"{path}: none of its pictures can be decoded. Save the video again.")
        height, width = _shown_size(first, stream)
        rate = stream.average_rate or stream.guessed_rate or Fraction(FPS)
        start = _time(first)
    if min(height, width) < SHORTEST_SIDE:
        raise InputError(f"{path}: pictures of {width}x{height}, expected at least {SHORTEST_SIDE} pixels a side.")
    if coded:
        return Footage(Path(path), len(times), height, width, Fraction(rate), start, 0, coded)
    times = sorted(times) or [start]
    waits = sorted(after - before for before, after in zip(times, times[1:], strict=False))
    usual = waits[len(waits) // 2] if waits else Fraction(1, FPS)
    # The last picture is shown as long as most: some writers say nothing of it, or a millisecond.
    count = max(1, _tick(max(end, times[-1] + usual) - start))
    held = max(0, _tick(waits[-1]) - max(1, _tick(usual))) if waits else 0  # a low rate repeats pictures by nature
    if held > HELD:
        log.warning("%s: has no pictures for %.2f s in the middle; the last one is repeated.", path, held / FPS)
    return Footage(Path(path), count, height, width, Fraction(rate), start, held)


@contextmanager
def _opened(path: Path):
    """Opens a video's first picture stream: PyAV, stream, container; its errors become one line."""
    av = require("av", "av", "reading videos")
    if not Path(path).is_file():
        raise InputError(f"{path}: {'a folder' if Path(path).is_dir() else 'no such file'}, expected a video.")
    try:
        with open_media(av, Path(path), options=OPEN_OPTIONS) as container:
            streams = [stream for stream in container.streams.video if not is_cover(stream)]
            if not streams:
                raise InputError(f"{path}: has no pictures. Use a video, such as mp4.")
            yield av, streams[0], container
    except av.error.FFmpegError as error:
        raise InputError(f"{path}: not readable as a video ({error.strerror}). Use mp4, mov, mkv or webm.") from error


def _packet_times(container, stream) -> tuple[list[Fraction], Fraction]:
    """When each coded picture is shown, and when the last one ends, in seconds, without decoding."""
    times, end = [], Fraction(0)
    for packet in container.demux(stream):
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None or packet.is_discard:
            continue
        times.append(stamp * stream.time_base)
        end = max(end, (stamp + (packet.duration or 0)) * stream.time_base)
    return times, end


def _decoded(container, stream):
    """Decoded frames in the order they are shown; interlaced ones are made whole; damaged packets are skipped."""
    av = require("av", "av", "reading videos")
    stream.thread_type = "AUTO"
    whole, damaged = None, 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            damaged += 1
            continue
        for frame in frames:
            if frame.pts is None:
                continue
            whole = whole or (_deinterlacer(av, stream) if frame.interlaced_frame else iter)
            yield from whole([frame])
    if whole not in (None, iter):
        yield from whole(None)
    if damaged:
        log.warning("%s: %d damaged packets of its pictures are left out.", container.name, damaged)


def _deinterlacer(av, stream):
    """FFmpeg's bwdif as a function: frames (None: the end) -> frames of whole pictures."""
    graph = av.filter.Graph()
    graph.link_nodes(graph.add_buffer(template=stream), graph.add("bwdif", "mode=send_frame"), graph.add("buffersink"))
    graph.configure()

    def whole(frames):
        for frame in frames or [None]:
            graph.push(frame)
        while True:
            try:
                yield graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return

    return whole


def _time(frame) -> Fraction:
    return frame.pts * frame.time_base


def _tick(seconds: Fraction) -> int:
    """The nearest of 25 moments a second, a half upwards, as players and FFmpeg's `fps` filter round."""
    return (seconds * FPS + Fraction(1, 2)).__floor__()


def _shown_size(frame, stream) -> tuple[int, int]:
    height, width = frame.height, _square_width(frame, stream)
    return (width, height) if frame.rotation % 180 else (height, width)


def _square_width(frame, stream) -> int:
    """The width with square pixels; the height stays."""
    return max(1, round(frame.width * (stream.sample_aspect_ratio or 1)))


class _Show:
    """Turns decoded frames to what a player shows: uint8 ``3 h w`` of one size, in standard dynamic range."""

    def __init__(self, stream, size: tuple[int, int]):
        self.stream, self.size = stream, size
        self.transfer = TRANSFERS.get(getattr(stream.codec_context, "color_trc", None))

    def __call__(self, frame) -> Tensor:
        turns = round(frame.rotation / 90) % 4
        height, width = self.size if turns % 2 == 0 else self.size[::-1]
        deep = self.transfer is not None
        picture = frame.to_ndarray(
            format="rgb48le" if deep else "rgb24",
            width=width,
            height=height,
            interpolation="BICUBIC",
            src_colorspace=_matrix(frame),
        )
        if deep:
            picture = to_standard(picture, self.transfer)
        return torch.from_numpy(picture).rot90(turns).permute(2, 0, 1).contiguous()


def _matrix(frame) -> int:
    """H.273's matrix coefficients; those that players assume where the file names none."""
    if frame.colorspace != _UNSPECIFIED:
        return frame.colorspace
    return _BT709 if frame.width >= _HD[0] or frame.height > _HD[1] else _BT601
