"""Opens sound files with FFmpeg, and decodes one sound track to float32.

Only containers on a list are opened, and never another file that the content refers to.
"""

from __future__ import annotations

import errno
import logging
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from .sound_kinds import USUAL, advice, ogg_links, protection

LONGEST = 3 * 3600  # seconds: 5,745 clips
MOST_VALUES = LONGEST * 48_000 * 2  # samples of all channels: three hours of stereo, 4.1 GB
# Allowed containers. Left out are pictures, and playlists and manifests, which make FFmpeg open other files or URLs.
_CONTAINERS = (
    *("wav", "w64", "aiff", "au", "caf", "mp3", "flac", "ogg", "aac", "ac3", "eac3", "amr", "ape", "wv", "tta"),
    *("mov", "matroska", "avi", "asf", "mpegts", "mpeg", "flv"),
)
OPEN_OPTIONS = {"format_whitelist": ",".join(_CONTAINERS), "protocol_whitelist": "file"}
_DEFAULT, _ATTACHED_PICTURE = 1, 0x400  # FFmpeg's disposition bits of the default track and of a song's cover
_UNHEARD = 0.02  # seconds by which sound may begin after the pictures without a gap: half a picture
_PRIMING = 0.15  # seconds of silence that encoders put before the sound, and some containers before the pictures
# Programs that write wav to a pipe put a length of almost 2 or 4 GB into its header, or 0.
_STREAMED = (0x7FFF_0000, 0x8001_0000, 0xFFFF_0000)  # from, to; and from there on

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SoundTrack:
    """A decoded track: `waveform` ``channels samples``, its rate, its channels' speakers by FFmpeg's names, and its
    length in seconds according to the file, which is longer if a download or copy was cut short; when it starts, in
    seconds of the file's clock."""

    waveform: Tensor
    rate: int
    speakers: tuple[str, ...]
    claimed: float
    start: float


@contextmanager
def sound_file(path: Path) -> Iterator[Path]:
    """Yields the path of a file that can be read more than once: `path` itself, or a temporary copy of what comes from
    a named pipe such as /dev/stdin.

    Raises:
        InputError: no such file, a folder, a device, or a pipe that delivers more than the largest recording.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # ValueError: a NUL in the name
        mode = 0
    if stat.S_ISREG(mode):
        yield path
    elif stat.S_ISFIFO(mode):
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "sound"
            _drain(path, copy)
            yield copy
    else:
        found = "a folder" if stat.S_ISDIR(mode) else "not a file" if mode else "no such file"
        raise InputError(f"{path}: {found}, expected a recording such as wav.")


@contextmanager
def explained(av, file: Path, path: Path) -> Iterator[None]:
    """Turns errors of FFmpeg and the disk in the block into an InputError that says what the file is.

    file: where the content is; path: its name for the user.
    """
    try:
        yield
    except IndexError as error:  # from PyAV, for a stream that the file's header does not list
        joined = advice(file, path, "") if ogg_links(file) > 1 else None
        reason = joined or "a further stream begins partway through. Save its sound alone, as wav."
        raise InputError(f"{path}: {reason}") from error
    except av.error.FFmpegError as error:
        is_foreign = error.errno == errno.EINVAL  # FFmpeg's error for a container that is not allowed
        reason = "a file type without sound" if is_foreign else error.strerror
        raise InputError(f"{path}: {advice(file, path, reason)}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). {USUAL}") from error


def open_media(av, path: Path, **options):
    """Opens a media file, even if its tags are not UTF-8. PyAV up to version 18 needs an option for that, which later
    versions may reject. The path is made absolute, so that FFmpeg never reads it as a protocol.

    Raises:
        av.error.FFmpegError: the file is not readable.
    """
    try:
        return av.open(str(path.absolute()), metadata_errors="replace", **options)
    except TypeError:
        return av.open(str(path.absolute()), **options)


def track_order(av, file: Path, path: Path, wanted: int | None) -> list[int]:
    """Numbers, from 1, of the sound tracks to try: only the wanted one, or all with the default track first.

    Raises:
        InputError: there is no sound, or no such track.
    """
    with open_media(av, file, options=OPEN_OPTIONS) as container:
        streams = container.streams.audio
        if not streams:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise InputError(f"{path}: no sound in it (found {kinds}). Use a file with an audio stream.")
        numbers = list(range(1, len(streams) + 1))
        if wanted is not None:
            if wanted not in numbers:
                raise InputError(f"{path}: no sound track {wanted}: it has {len(numbers)}, counted from 1.")
            return [wanted]
        plays = [number for number in numbers if streams[number - 1].disposition.value & _DEFAULT]
        return sorted(numbers, key=lambda number: number not in plays)


def read_track(av, file: Path, path: Path, number: int) -> SoundTrack:
    """Decodes a whole sound track, unchecked. Packets that cannot be decoded are left out, with a warning.

    Raises:
        InputError: there is no sound in it, it is encrypted, too long, or changes its rate or channels.
    """
    with open_media(av, file, options=OPEN_OPTIONS) as container:
        stream = container.streams.audio[number - 1]
        waveform, rate, speakers, start = _decode(container, stream, file, path, av.error.InvalidDataError)
        claimed = _claimed(container, stream, file, waveform.shape[1] / rate)
        late = start - _first_picture(container, start)
        if late > _UNHEARD or -_PRIMING <= late < 0 and waveform.shape[1] > -late * rate:
            waveform, start = F.pad(waveform, (round(late * rate), 0)), start - late
        return SoundTrack(waveform, rate, speakers, claimed, start)


def check_length(name: str, values: int, seconds: float) -> None:
    """Raises InputError for more than three hours of sound, or for more samples than three hours of stereo have."""
    if seconds > LONGEST or values > MOST_VALUES:
        raise InputError(
            f"{name}: more than {LONGEST // 3600} hours of sound, or as many samples in several channels. Cut it into "
            "parts."
        )


def _drain(pipe: Path, copy: Path) -> None:
    """Writes what comes from a pipe into a file, until its writer closes it."""
    try:
        with pipe.open("rb") as source, copy.open("wb") as target:
            while content := source.read(1 << 20):
                target.write(content)
                if target.tell() > 4 * MOST_VALUES:
                    raise InputError(
                        f"{pipe}: the pipe delivers more than {4 * MOST_VALUES >> 30} GB. Cut it into parts."
                    )
            if not target.tell():
                raise InputError(f"{pipe}: nothing came through the pipe, expected a recording such as wav.")
    except OSError as error:
        raise InputError(f"{pipe}: cannot be read through ({error.strerror}). Save it as a file first.") from error


def _first_picture(container, otherwise: float) -> float:
    """When a video's first picture is shown, in seconds of the file's clock."""
    starts = [
        float(stream.start_time * stream.time_base)
        for stream in container.streams.video
        if stream.start_time is not None and not is_cover(stream)
    ]
    return min(starts, default=otherwise)


def is_cover(stream) -> bool:
    """Whether a picture stream is a song's cover."""
    return bool(stream.disposition.value & _ATTACHED_PICTURE)


def _decode(
    container, stream, file: Path, path: Path, damage: type[Exception]
) -> tuple[Tensor, int, tuple[str, ...], float]:
    """Decodes a whole sound track: ``channels samples``, rate, speakers and when it starts, in seconds. Skips packets
    that raise `damage`."""
    pieces: list[Tensor] = []
    setup, damaged, samples, speakers, start = None, 0, 0, (), None
    _check_protection(container, stream, file, path)
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except damage:  # common at the end of mp3 files, which may hold tags of other programs
            if not damaged:
                _check_protection(container, stream, file, path, is_damaged=True)
            damaged += 1
            continue
        for frame in frames:
            found = (frame.sample_rate, len(frame.layout.channels))
            if setup not in (None, found):
                raise InputError(
                    f"{path}: changes from {setup[0]} Hz, {setup[1]} channels to {found[0]} Hz, {found[1]} channels "
                    "partway through. Save it again with one sample rate and channel count."
                )
            setup, samples = found, samples + frame.samples
            speakers = speakers or tuple(channel.name for channel in frame.layout.channels)
            start = (frame.time or 0.0) if start is None else start
            check_length(str(path), samples * setup[1], samples / max(1, setup[0]))  # before memory runs out
            pieces.append(_samples(frame))
    if not pieces:
        raise InputError(f"{path}: no sound in it ({damaged} damaged packets). Save it again, as wav for example.")
    if damaged:
        _log.warning("%s: %d damaged packets of its sound are left out.", path, damaged)
    return torch.cat(pieces, dim=1), setup[0], speakers, start


def _check_protection(container, stream, file: Path, path: Path, is_damaged: bool = False) -> None:
    if "mp4" in container.format.name and stream.codec_context is not None:
        reason = protection(file, path, stream.codec_context.codec_tag, is_damaged)
        if reason is not None:
            raise InputError(f"{path}: {reason}")


def _claimed(container, stream, file: Path, seconds: float) -> float:
    """The length that the file claims for a track of `seconds`; 0 if it claims none."""
    length = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    if container.format.name == "wav":  # FFmpeg uses the file's size here, not the header
        with file.open("rb") as content:
            claimed = int.from_bytes(content.read(8)[4:], "little") + 8
        if claimed < _STREAMED[0] or _STREAMED[1] < claimed < _STREAMED[2]:
            return max(length, seconds * claimed / max(1, file.stat().st_size))
    return length


def _samples(frame) -> Tensor:
    """A decoded frame of any format as float32 ``channels samples`` in -1..1."""
    values = frame.to_ndarray()
    kind, full_scale = values.dtype.kind, 2.0 ** (8 * values.itemsize - 1)
    if not frame.format.is_planar:  # interleaved: one row with all channels of the first sample, then the second, ...
        values = values.reshape(-1, len(frame.layout.channels)).T
    values = values.astype(np.float32)
    if kind == "u":
        values -= full_scale
    if kind in "ui":
        values /= full_scale
    return torch.from_numpy(np.ascontiguousarray(values))
