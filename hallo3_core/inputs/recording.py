"""A voice recording: reads any audio or video file, checks the sound, mixes it to mono and resamples it.

Source: the released sampler resamples its input to 16 kHz with ffmpeg and mixes it to mono. The same library,
libswresample, is used here through PyAV.
"""

from __future__ import annotations

import errno
import logging
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from numbers import Integral
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .. import clips
from ..errors import InputError, require
from .mixing import mixed, mono_weights, surviving

VOICE_RATE = 16_000  # Hz, the sample rate that wav2vec2 was trained on
PIECE = 65_536  # samples per chunk, so that only the sound itself is fully in memory

LOWEST_RATE, HIGHEST_RATE = 1_000, 1_000_000  # Hz; outside this range the header is damaged and resamplers fail
LONGEST = 3 * 3600  # seconds: 5,745 clips
MOST_VALUES = LONGEST * 48_000 * 2  # samples of all channels: three hours of stereo, 4.1 GB
# Allowed containers. Left out are pictures, and playlists and manifests, which make FFmpeg open other files or URLs.
_CONTAINERS = (
    *("wav", "w64", "aiff", "au", "caf", "mp3", "flac", "ogg", "aac", "ac3", "eac3", "amr", "ape", "wv", "tta"),
    *("mov", "matroska", "avi", "asf", "mpegts", "mpeg", "flv"),
)
_OPEN = {"format_whitelist": ",".join(_CONTAINERS), "protocol_whitelist": "file"}

_DEFAULT = 1  # FFmpeg's disposition bit of the default track
_CHOOSE = "; on the command line --audio-track chooses another"
_SILENT = 2.0**-15  # one step of 16-bit sound
_LOUDEST = 16.0  # 24 dB above full scale; larger values are integers that were not scaled to -1..1
_FILTER = 64  # samples at the lower of the two rates; libswresample's filter is shorter

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Recording:
    """Sound in memory: `waveform` ``channels samples``, float32, about -1..1, at `rate` samples per second.

    speakers: each channel's speaker, by FFmpeg's names (FL, FR, FC, LFE, ...); empty if unknown.
    mix: each channel's weight in the mono mix for the model; set by `check_recording`.
    heard: the mono mix's peak deviation from its mean; set by `check_recording`.
    """

    waveform: Tensor
    rate: int
    name: str = "recording"
    speakers: tuple[str, ...] = ()
    mix: Tensor | None = None
    heard: float = 0.0

    @property
    def samples(self) -> int:
        return self.waveform.shape[1]

    @property
    def seconds(self) -> float:
        return self.samples / self.rate

    @property
    def frames(self) -> int:
        """Length in frames of a film that is as long as this sound."""
        return clips.film_frames(self.samples, self.rate)


def check_recording(recording: Recording) -> Recording:
    """Checks a recording and returns it as float32 on the CPU, with its `mix`. Returns a checked recording unchanged.

    Warns if the mono mix, without its constant part, is silent.

    Raises:
        InputError: no samples, not ``channels samples``, integers, values that are NaN, infinite or far above 1, an
            invalid rate, or more than three hours.
    """
    if recording.mix is not None:
        return recording
    name, waveform, rate = recording.name, recording.waveform, recording.rate
    if waveform.ndim != 2 or not waveform.numel():
        raise InputError(f"{name}: no sound in it, expected channels x samples, found {list(waveform.shape)}.")
    if not waveform.is_floating_point():
        raise InputError(f"{name}: samples are {waveform.dtype}, expected floats of -1..1. Divide by full scale.")
    if not isinstance(rate, Integral) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise InputError(
            f"{name}: {rate} samples a second, expected a whole number of {LOWEST_RATE} to {HIGHEST_RATE}, such as "
            f"{VOICE_RATE}."
        )
    _check_length(name, waveform.numel(), waveform.shape[1] / rate)
    waveform = waveform.detach().to("cpu", torch.float32).contiguous()
    lowest, highest = (value.item() for value in waveform.aminmax())  # NaN propagates, and nothing is copied
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        channel, sample = (~waveform.isfinite()).nonzero()[0].tolist()
        value = waveform[channel, sample].item()
        raise InputError(
            f"{name}: sample {sample} ({sample / rate:.2f} s) of channel {channel} is {value}, expected a number. "
            "Save the sound again in the program that made it."
        )
    peak = max(-lowest, highest)
    if peak > _LOUDEST:
        raise InputError(f"{name}: samples reach {peak:g}, expected about -1..1. Divide by full scale (16 bit: 32768).")
    return _judged(Recording(waveform, int(rate), name, recording.speakers))


def _judged(recording: Recording) -> Recording:
    """Adds the mix to a recording, with a warning if its channels cancel each other or the mix is silent."""
    name, count = recording.name, recording.waveform.shape[0]
    weights = mono_weights(recording.speakers, count)
    weights, alone, mean = surviving(weights, recording.waveform.split(PIECE, dim=1))
    if alone is not None:
        _log.warning(
            "%s: its channels cancel each other, so one may be inverted: the mouth follows channel %d alone.",
            name,
            alone + 1,
        )
    steady = mean.float()[:, None]
    pieces = (mixed(piece - steady, weights[None]) for piece in recording.waveform.split(PIECE, dim=1))
    heard = max((piece.abs().max().item() for piece in resampled(pieces, recording.rate, VOICE_RATE)), default=0.0)
    if heard < _SILENT:
        _log.warning("%s is silent: the portrait will hardly move its mouth.", name)
    return replace(recording, mix=weights, heard=heard)


def read_recording(path: str | PathLike, track: int | None = None) -> Recording:
    """Reads the sound of a file: wav, mp3, flac, ogg, m4a, or a video's sound track.

    Warns if it skips damaged packets or the sound is shorter than the file says. Never opens another file, even if the
    content refers to one.

    track: number of the sound track, from 1. None takes the default track, or if it is silent the first that is not.
        If there are several tracks, a warning names the one that is used.

    Raises:
        InputError: the file is missing, unreadable, or has no sound or no such track, or `check_recording` rejects the
            sound.
    """
    av = require("av", "av", "reading sound")
    path = Path(path)
    if not os.path.isfile(path):  # also False for names that are invalid as paths
        raise InputError(
            f"{path}: {'a folder' if path.is_dir() else 'no such file'}, expected a recording such as wav."
        )
    try:
        order = _tracks(av, path, track)
        for number in (*order, order[0]):  # the first again at the end, used if all are silent
            found, claimed = _read_track(av, path, number)
            if _varies(found.waveform) or len(order) == 1:
                break
        if len(order) > 1:
            _log.warning("%s: uses sound track %d of %d%s.", path, number, len(order), _CHOOSE)
        recording = check_recording(found)
        if recording.seconds < 0.9 * claimed:
            _log.warning(
                "%s: holds %.1f s of sound but says %.1f s: was it cut short?", path, recording.seconds, claimed
            )
        return recording
    except IndexError as error:  # from PyAV, for a stream that the file's header does not list
        raise InputError(f"{path}: a further stream begins partway through. Save its sound alone, as wav.") from error
    except av.error.FFmpegError as error:
        is_foreign = error.errno == errno.EINVAL  # FFmpeg's error for a container that is not allowed
        reason = "a file type without sound" if is_foreign else error.strerror
        raise InputError(f"{path}: not readable as sound ({reason}). Use wav, mp3, flac, ogg or m4a.") from error


def to_mono(recording: Recording, rate: int = VOICE_RATE) -> Tensor:
    """Mixes to mono at `rate` samples per second: ``samples``, exactly ceil(samples x rate / recording.rate).

    Sound that is already mono and at `rate` is returned bit for bit.
    """
    weights = check_recording(recording).mix
    mono = (mixed(piece, weights[None]) for piece in recording.waveform.split(PIECE, dim=1))
    sound = torch.cat(list(resampled(mono, recording.rate, rate)), dim=1)[0]
    length = -(-recording.samples * rate // recording.rate)
    return F.pad(sound[:length], (0, length - min(length, sound.shape[0])))


def resampled(pieces: Iterable[Tensor], rate: int, target: int) -> Iterator[Tensor]:
    """Resamples a stream of chunks ``channels samples`` (mono or stereo) from `rate` to `target` samples per second.

    libswresample compensates for the filter's delay, so sample i stays at i / rate seconds. The total may be a few
    samples shorter or longer than the sound.
    """
    if rate == target:
        yield from pieces
        return
    av = require("av", "av", "resampling sound")
    resampler, seen = av.AudioResampler(format="fltp", rate=target), 0
    shortest = _FILTER * math.ceil(rate / min(rate, target))

    def through(frame) -> Iterator[Tensor]:
        return (torch.from_numpy(out.to_ndarray()) for out in resampler.resample(frame))

    for piece in pieces:
        yield from through(sound_frame(piece, rate, seen))
        seen += piece.shape[1]
    if 0 < seen < shortest:  # input shorter than the filter gives no output: append silence
        yield from through(sound_frame(torch.zeros(piece.shape[0], shortest - seen), rate, seen))
    yield from through(None)


def sound_frame(samples: Tensor, rate: int, start: int):
    """Sound ``channels samples`` (mono or stereo) as a PyAV frame that starts at sample `start`."""
    av = require("av", "av", "handling sound")
    layout = {1: "mono", 2: "stereo"}[samples.shape[0]]
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.numpy()), format="fltp", layout=layout)
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), start
    return frame


def _opened(av, path: Path):
    """Opens a sound file. Only containers in `_CONTAINERS` and local files are allowed."""
    return open_media(av, path, options=_OPEN)


def open_media(av, path: Path, **options):
    """Opens a media file, even if its tags are not UTF-8. PyAV up to version 18 needs an option for that, which later
    versions may reject. The path is made absolute, so that FFmpeg never reads it as a protocol.

    Raises:
        av.error.FFmpegError: the file is not readable.
    """
    try:
        return av.open(str(path.resolve()), metadata_errors="replace", **options)
    except TypeError:
        return av.open(str(path.resolve()), **options)


def _tracks(av, path: Path, wanted: int | None) -> list[int]:
    """Numbers, from 1, of the sound tracks to try: only the wanted one, or all with the default track first."""
    with _opened(av, path) as container:
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


def _read_track(av, path: Path, number: int) -> tuple[Recording, float]:
    """Reads a whole sound track, unchecked, and its length in seconds according to the file."""
    with _opened(av, path) as container:
        stream = container.streams.audio[number - 1]
        waveform, rate, speakers = _decode(container, stream, path, av.error.InvalidDataError)
        return Recording(waveform, rate, path.name, speakers), _claimed(
            container, stream, path, waveform.shape[1] / rate
        )


def _varies(waveform: Tensor) -> bool:
    """Whether any channel varies audibly, or has NaN or infinite values."""
    low, high = waveform.aminmax(dim=1)
    return bool(((high - low) >= _SILENT).any() | ~(high - low).isfinite().all())


def _decode(container, stream, path: Path, damage: type[Exception]) -> tuple[Tensor, int, tuple[str, ...]]:
    """Decodes a whole sound track: ``channels samples``, rate and speakers. Skips packets that raise `damage`."""
    pieces: list[Tensor] = []
    setup, damaged, samples, speakers = None, 0, 0, ()
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except damage:  # common at the end of mp3 files, which may hold tags of other programs
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
            _check_length(str(path), samples * setup[1], samples / max(1, setup[0]))  # before memory runs out
            pieces.append(_samples(frame))
    if not pieces:
        raise InputError(f"{path}: no sound in it ({damaged} damaged packets). Save it again, as wav for example.")
    if damaged:
        _log.warning("%s: %d damaged packets of its sound are left out.", path, damaged)
    return torch.cat(pieces, dim=1), setup[0], speakers


def _check_length(name: str, values: int, seconds: float) -> None:
    """Raises InputError for more than three hours of sound, or for more samples than three hours of stereo have."""
    if seconds > LONGEST or values > MOST_VALUES:
        raise InputError(
            f"{name}: more than {LONGEST // 3600} hours of sound, or as many samples in several channels. Cut it into "
            "parts."
        )


def _claimed(container, stream, path: Path, seconds: float) -> float:
    """The length that the file claims for a track of `seconds`: longer if a download or copy was cut short."""
    length = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    if container.format.name == "wav":  # FFmpeg uses the file's size here, not the header
        with path.open("rb") as file:
            claimed = int.from_bytes(file.read(8)[4:], "little") + 8
        if claimed < 1 << 32:  # the largest values mean that the writer did not know the size
            length = max(length, seconds * claimed / max(1, path.stat().st_size))
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
