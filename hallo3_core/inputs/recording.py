"""A voice recording: reads any audio or video file, checks the sound, mixes it to mono and resamples it.

Source: the released sampler resamples its input to 16 kHz with ffmpeg and mixes it to mono. The same library,
libswresample, is used here through PyAV.
"""

from __future__ import annotations

import logging
import math
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
from .mixing import mono_weights
from .mono import MonoMix, mono_mix
from .sound_file import check_length, explained, read_track, sound_file, track_order

VOICE_RATE = 16_000  # Hz, the sample rate that wav2vec2 was trained on
PIECE = 65_536  # samples per chunk, so that only the sound itself is fully in memory

LOWEST_RATE, HIGHEST_RATE = 1_000, 1_000_000  # Hz; outside this range the header is damaged and resamplers fail
_CHOOSE = "; on the command line --audio-track chooses another"
_SILENT = 2.0**-15  # one step of 16-bit sound
_LOUDEST = 16.0  # 24 dB above full scale
_INTEGERS = 100.0  # samples beyond are probably integers that were not scaled; 8 bits end at 127
_TIMES = 3  # parts named in a warning
_FILTER = 64  # samples at the lower of the two rates; libswresample's filter is shorter

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Recording:
    """Sound in memory: `waveform` ``channels samples``, float32, about -1..1, at `rate` samples per second.

    speakers: each channel's speaker, by FFmpeg's names (FL, FR, FC, LFE, ...); empty if unknown.
    mix: how it is mixed to mono for the model; set by `check_recording`.
    heard: the mono mix's peak deviation from its mean; set by `check_recording`.
    start: when its first sample is heard, in seconds of its file's clock.
    """

    waveform: Tensor
    rate: int
    name: str = "recording"
    speakers: tuple[str, ...] = ()
    mix: MonoMix | None = None
    heard: float = 0.0
    start: float = 0.0

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
    check_length(name, waveform.numel(), waveform.shape[1] / rate)
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
        lower = f"ower its volume by {20 * math.log10(peak):.0f} dB."
        divide = f"Divide by full scale (16 bit: 32768). If it was turned up, l{lower}"
        remedy = divide if peak > _INTEGERS else f"L{lower}"
        raise InputError(f"{name}: samples reach {peak:g}, expected about -1..1. {remedy}")
    return _judged(replace(recording, waveform=waveform, rate=int(rate)))


def _judged(recording: Recording) -> Recording:
    """Adds the mix to a recording, with a warning if its channels cancel each other or the mix is silent."""
    name, waveform = recording.name, recording.waveform
    weights = mono_weights(recording.speakers, waveform.shape[0])
    mix, mean = mono_mix(weights, waveform, recording.rate, PIECE)
    if mix.alone:
        _log.warning("%s", _cancelling(recording, mix))
    steady = mean.float()[:, None]
    pieces = mix.of(piece - steady for piece in waveform.split(PIECE, dim=1))
    heard = max((piece.abs().max().item() for piece in resampled(pieces, recording.rate, VOICE_RATE)), default=0.0)
    if heard < _SILENT:
        _log.warning("%s is silent: the portrait will hardly move its mouth.", name)
    return replace(recording, mix=mix, heard=heard)


def _cancelling(recording: Recording, mix: MonoMix) -> str:
    """Says where the channels cancel each other, and what is heard there."""
    named = sorted({stretch.channel + 1 for stretch in mix.alone})
    channels = f"channel {named[0]}" if len(named) == 1 else f"channels {', '.join(map(str, named))}"
    times = [f"{part.start / recording.rate:.1f} to {part.stop / recording.rate:.1f} s" for part in mix.alone]
    if (mix.alone[0].start, mix.alone[-1].stop) == (0, recording.samples) and len(times) == 1:
        where, there = "", ""
    else:
        shown = ", ".join(times[:_TIMES]) + (f" and {len(times) - _TIMES} more" if len(times) > _TIMES else "")
        where, there = f" in a part of it ({shown})", "there "
    follows = f"{there}the mouth follows {channels} alone"
    return f"{recording.name}: its channels cancel each other{where}, so one may be inverted: {follows}."


def read_recording(path: str | PathLike, track: int | None = None) -> Recording:
    """Reads the sound of a file: wav, mp3, flac, ogg, m4a, or a video's sound track; also from a named pipe. A track
    that begins after the video's first picture begins with silence, as in a player; an encoder's priming is cut.

    Warns if it skips damaged packets or the sound is shorter than the file says. Never opens another file, even if the
    content refers to one.

    track: number of the sound track, from 1. None takes the default track, or if it is silent the first that is not.
        If there are several tracks, a warning names the one that is used.

    Raises:
        InputError: the file is missing, unreadable, or has no sound or no such track, or `check_recording` rejects the
            sound.
    """
    av, path = require("av", "av", "reading sound"), Path(path)
    with sound_file(path) as file, explained(av, file, path):
        order = track_order(av, file, path, track)
        for number in (*order, order[0]):  # the first again at the end, used if all are silent
            found = read_track(av, file, path, number)
            if _varies(found.waveform) or len(order) == 1:
                break
    if len(order) > 1:
        _log.warning("%s: uses sound track %d of %d%s.", path, number, len(order), _CHOOSE)
    recording = check_recording(Recording(found.waveform, found.rate, path.name, found.speakers, start=found.start))
    if recording.seconds < 0.9 * found.claimed:
        seconds = (recording.seconds, found.claimed)
        _log.warning("%s: holds %.1f s of sound but says %.1f s: was it cut short?", path, *seconds)
    return recording


def to_mono(recording: Recording, rate: int = VOICE_RATE) -> Tensor:
    """Mixes to mono at `rate` samples per second: ``samples``, exactly ceil(samples x rate / recording.rate).

    Sound that is already mono and at `rate` is returned bit for bit.
    """
    recording = check_recording(recording)
    mono = recording.mix.of(recording.waveform.split(PIECE, dim=1))
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


def _varies(waveform: Tensor) -> bool:
    """Whether any channel varies audibly, or has NaN or infinite values."""
    low, high = waveform.aminmax(dim=1)
    return bool(((high - low) >= _SILENT).any() | ~(high - low).isfinite().all())
