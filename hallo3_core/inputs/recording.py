"""A voice recording: read from any file that holds sound, checked, mixed to one channel and resampled.

Source: the released sampler turns its input into 16 kHz with ffmpeg and mixes it to mono. libswresample, which does the
work there, does it here too, through PyAV.
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

VOICE_RATE = 16_000  # samples a second that wav2vec2 was trained on
PIECE = 65_536  # samples handled at a time, so that only the sound itself stays in memory

LOWEST_RATE, HIGHEST_RATE = 1_000, 1_000_000  # beyond them a header is damaged, and resamplers fail
LONGEST = 3 * 3600  # seconds: 5,745 clips
MOST_VALUES = LONGEST * 48_000 * 2  # samples of all channels: 4.1 GB, which is three hours of stereo
# What sound comes in. Left out are playlists and descriptions that make FFmpeg open further files or addresses, and
# pictures.
_CONTAINERS = (
    *("wav", "w64", "aiff", "au", "caf", "mp3", "flac", "ogg", "aac", "ac3", "eac3", "amr", "ape", "wv", "tta"),
    *("mov", "matroska", "avi", "asf", "mpegts", "mpeg", "flv"),
)
_OPEN = {"format_whitelist": ",".join(_CONTAINERS), "protocol_whitelist": "file"}

_DEFAULT = 1  # FFmpeg's bit of a track that plays unless another is chosen
_CHOOSE = "; on the command line --audio-track chooses another"
_SILENT = 2.0**-15  # one step of 16-bit sound
_LOUDEST = 16.0  # 24 dB above full scale: more than that is integers that nobody divided
_FILTER = 64  # samples, at the lower of two rates, that libswresample's filter surely fits in

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Recording:
    """Sound in memory: `waveform` ``channels samples``, float32, about -1..1, at `rate` samples a second.

    speakers: which each channel is for, by FFmpeg's names (FL, FR, FC, LFE, ...); empty where nobody says.
    mix, heard: what each channel gives to the one that the model hears, and how far that departs from its mean; set by
        `check_recording`.
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
        """Frames of the film that is as long as this sound."""
        return clips.film_frames(self.samples, self.rate)


def check_recording(recording: Recording) -> Recording:
    """The recording as float32 on the CPU, if it is sound. What leaves nothing to be heard, after mixing and without a
    constant part, is let through with a warning. A checked recording comes back as it is.

    Raises:
        InputError: no samples, not ``channels samples``, whole numbers, values that are not finite or far above 1, a
            rate that is none, or more than three hours.
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
    lowest, highest = (value.item() for value in waveform.aminmax())  # NaN wins here, and nothing is copied
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
    """The recording with its mix, which is warned of where it is an unusual one or leaves nothing to be heard."""
    name, count = recording.name, recording.waveform.shape[0]
    weights = mono_weights(recording.speakers, count)
    weights, alone, mean = surviving(weights, recording.waveform.split(PIECE, dim=1))
    if alone is not None:
        _log.warning(
            "%s: its channels cancel each other, as where one is turned over: the mouth follows channel %d alone.",
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
    """The sound of a file: wav, mp3, flac, ogg, m4a, or what a video sounds like. Damaged packets are left out, and a
    file that holds less than it says is told in the log. No other file is opened, whatever the content asks for.

    track: which of several sound tracks, from 1; None: the one that the file plays by default, or the first with
        something to be heard, and a warning that names it.

    Raises:
        InputError: no such file, not readable, no sound or no such track in it, or no sound that `check_recording`
            accepts.
    """
    av = require("av", "av", "reading sound")
    path = Path(path)
    if not os.path.isfile(path):  # which is false, too, for names that no file can have
        raise InputError(
            f"{path}: {'a folder' if path.is_dir() else 'no such file'}, expected a recording such as wav."
        )
    try:
        order = _tracks(av, path, track)
        for number in (*order, order[0]):  # the first once more: where none has sound, it is that one
            found, claimed = _read_track(av, path, number)
            if _varies(found.waveform) or len(order) == 1:
                break
        if len(order) > 1:
            _log.warning("%s: track %d of its %d sound tracks is heard%s.", path, number, len(order), _CHOOSE)
        recording = check_recording(found)
        if recording.seconds < 0.9 * claimed:
            _log.warning(
                "%s: holds %.1f s of sound but says %.1f s: was it cut short?", path, recording.seconds, claimed
            )
        return recording
    except IndexError as error:  # PyAV's, of a stream that the file's beginning does not list
        raise InputError(f"{path}: a further stream begins on its way. Save its sound alone, as wav.") from error
    except av.error.FFmpegError as error:
        is_foreign = error.errno == errno.EINVAL  # what FFmpeg calls a container that is not on the list
        reason = "of a kind that holds none" if is_foreign else error.strerror
        raise InputError(f"{path}: not readable as sound ({reason}). Use wav, mp3, flac, ogg or m4a.") from error


def to_mono(recording: Recording, rate: int = VOICE_RATE) -> Tensor:
    """The channels mixed to one at `rate` samples a second: ``samples``, exactly ceil(samples x rate / recording.rate).

    Sound that is mono and at `rate` already comes back as it is, bit for bit.
    """
    weights = check_recording(recording).mix
    mono = (mixed(piece, weights[None]) for piece in recording.waveform.split(PIECE, dim=1))
    sound = torch.cat(list(resampled(mono, recording.rate, rate)), dim=1)[0]
    length = -(-recording.samples * rate // recording.rate)
    return F.pad(sound[:length], (0, length - min(length, sound.shape[0])))


def resampled(pieces: Iterable[Tensor], rate: int, target: int) -> Iterator[Tensor]:
    """Pieces ``channels samples`` (mono or stereo) from `rate` to `target` samples a second, as they come.

    The filter's delay is taken out by libswresample, so sample i stays at i / rate seconds; joined, the pieces may be a
    few samples shorter or longer than the sound.
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
    if 0 < seen < shortest:  # nothing comes out of less than the filter holds: let silence follow
        yield from through(sound_frame(torch.zeros(piece.shape[0], shortest - seen), rate, seen))
    yield from through(None)


def sound_frame(samples: Tensor, rate: int, start: int):
    """Sound ``channels samples`` (mono or stereo) as PyAV's frame that begins at sample number `start`."""
    av = require("av", "av", "handling sound")
    layout = {1: "mono", 2: "stereo"}[samples.shape[0]]
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.numpy()), format="fltp", layout=layout)
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), start
    return frame


def _opened(av, path: Path):
    """An absolute path is never taken for a protocol; tags in another alphabet's bytes must not stop the sound."""
    return open_media(av, path, options=_OPEN)


def open_media(av, path: Path, **options):
    """A media file, whatever bytes its tags are in. PyAV up to 18 has to be asked for that; later ones may not know the
    word any more.

    Raises:
        av.error.FFmpegError: not readable.
    """
    try:
        return av.open(str(path.resolve()), metadata_errors="replace", **options)
    except TypeError:
        return av.open(str(path.resolve()), **options)


def _tracks(av, path: Path, wanted: int | None) -> list[int]:
    """The sound tracks to try, from 1: the wanted one alone, or all, the one that plays by default first."""
    with _opened(av, path) as container:
        streams = container.streams.audio
        if not streams:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise InputError(f"{path}: no sound in it (found {kinds}). Use a file with an audio stream.")
        numbers = list(range(1, len(streams) + 1))
        if wanted is not None:
            if wanted not in numbers:
                raise InputError(f"{path}: no sound track {wanted}, as it has {len(numbers)}. Count from 1.")
            return [wanted]
        plays = [number for number in numbers if streams[number - 1].disposition.value & _DEFAULT]
        return sorted(numbers, key=lambda number: number not in plays)


def _read_track(av, path: Path, number: int) -> tuple[Recording, float]:
    """A sound track, whole and unchecked, and how many seconds the file says that it holds."""
    with _opened(av, path) as container:
        stream = container.streams.audio[number - 1]
        waveform, rate, speakers = _decode(container, stream, path, av.error.InvalidDataError)
        return Recording(waveform, rate, path.name, speakers), _claimed(
            container, stream, path, waveform.shape[1] / rate
        )


def _varies(waveform: Tensor) -> bool:
    """Whether any channel departs from a constant by what can be heard."""
    low, high = waveform.aminmax(dim=1)
    return bool(((high - low) >= _SILENT).any() | ~(high - low).isfinite().all())


def _decode(container, stream, path: Path, damage: type[Exception]) -> tuple[Tensor, int, tuple[str, ...]]:
    """A sound track of an open file, whole: ``channels samples``, rate and speakers. `damage` is skipped."""
    pieces: list[Tensor] = []
    setup, damaged, samples, speakers = None, 0, 0, ()
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except damage:  # usual at the end of mp3 files, where tags of other programs stand
            damaged += 1
            continue
        for frame in frames:
            found = (frame.sample_rate, len(frame.layout.channels))
            if setup not in (None, found):
                raise InputError(
                    f"{path}: changes from {setup[0]} Hz, {setup[1]} channels to {found[0]} Hz, {found[1]} channels on "
                    "its way. Save it again with one setting."
                )
            setup, samples = found, samples + frame.samples
            speakers = speakers or tuple(channel.name for channel in frame.layout.channels)
            _check_length(str(path), samples * setup[1], samples / max(1, setup[0]))  # before memory is filled
            pieces.append(_samples(frame))
    if not pieces:
        raise InputError(f"{path}: no sound in it ({damaged} damaged packets). Save it again, as wav for example.")
    if damaged:
        _log.warning("%s: %d damaged packets of its sound are left out.", path, damaged)
    return torch.cat(pieces, dim=1), setup[0], speakers


def _check_length(name: str, values: int, seconds: float) -> None:
    """Raises InputError for sound of more than three hours, or of more samples than three hours of stereo have."""
    if seconds > LONGEST or values > MOST_VALUES:
        raise InputError(
            f"{name}: more than {LONGEST // 3600} hours of sound, or as many samples in several channels. Cut it into "
            "parts."
        )


def _claimed(container, stream, path: Path, seconds: float) -> float:
    """How long a track of `seconds` says that it is: more where a download or copy was cut short."""
    told = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    if container.format.name == "wav":  # FFmpeg goes by the file's size there, not by what it says
        with path.open("rb") as file:
            claimed = int.from_bytes(file.read(8)[4:], "little") + 8
        if claimed < 1 << 32:  # the largest numbers mean that the writer did not know
            told = max(told, seconds * claimed / max(1, path.stat().st_size))
    return told


def _samples(frame) -> Tensor:
    """A decoded frame, in whatever format, as float32 ``channels samples`` of -1..1."""
    values = frame.to_ndarray()
    kind, full_scale = values.dtype.kind, 2.0 ** (8 * values.itemsize - 1)
    if not frame.format.is_planar:  # one row: the channels of the first sample, those of the second, ...
        values = values.reshape(-1, len(frame.layout.channels)).T
    values = values.astype(np.float32)
    if kind == "u":
        values -= full_scale
    if kind in "ui":
        values /= full_scale
    return torch.from_numpy(np.ascontiguousarray(values))
