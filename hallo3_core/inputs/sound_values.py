"""Converts in-memory sound from other programs, in any of their formats, to a `Recording`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .recording import Recording

MOST_CHANNELS = 64  # in a real recording; more means that samples and channels are swapped
_WAVEFORM = ("waveform", "array", "samples", "audio")
_RATE = ("sample_rate", "sampling_rate", "rate", "sr")
_LEVELS = {torch.int8: 2.0**7, torch.int16: 2.0**15, torch.int32: 2.0**31}  # full scale


def recording_from(audio: Any, name: str = "audio") -> Recording:
    """Converts ComfyUI's AUDIO, a dict of ``1 channels samples`` and the rate, to a recording.

    Also accepts common variants: arrays or lists instead of tensors, fewer dimensions, integers of 8 to 32 bits,
    samples and channels swapped, a whole-number rate of another type, a (waveform, rate) pair in either order, a list
    of one.

    Raises:
        InputError: no sound, several recordings, no rate, or values that are not samples.
    """
    waveform, rate = _both(audio, name)
    samples = _tensor(waveform, name)
    if samples.ndim == 3:
        if len(samples) != 1:
            raise InputError(
                f"{name}: shape {list(samples.shape)}, expected [1, channels, samples]. Give one recording."
            )
        samples = samples[0]
    if samples.ndim == 1:
        samples = samples[None]
    if samples.ndim != 2:
        raise InputError(f"{name}: shape {list(samples.shape)}, expected [1, channels, samples]. Give one recording.")
    if samples.shape[0] > MOST_CHANNELS >= samples.shape[1] > 0:
        samples = samples.T
    if samples.shape[0] > MOST_CHANNELS:
        raise InputError(
            f"{name}: {samples.shape[0]} channels of {samples.shape[1]} samples, expected at most {MOST_CHANNELS}."
        )
    return Recording(_scaled(samples, name), _whole(rate, name), name)


def _both(audio: Any, name: str) -> tuple[Any, Any]:
    """Extracts waveform and rate from any accepted format."""
    if isinstance(audio, (list, tuple)) and len(audio) == 1:
        audio = audio[0]
    if audio is None:
        raise InputError(f"{name}: there is no sound, as in a video without a sound track. Connect Load Audio.")
    if isinstance(audio, Mapping):
        waveform, rate = (next((audio[key] for key in keys if key in audio), None) for keys in (_WAVEFORM, _RATE))
    elif isinstance(audio, (list, tuple)) and len(audio) == 2 and _is_number(audio[0]) != _is_number(audio[1]):
        waveform, rate = audio if _is_number(audio[1]) else reversed(audio)
    elif isinstance(audio, (list, tuple)) and audio and all(isinstance(each, Mapping) for each in audio):
        raise InputError(f"{name}: a list of {len(audio)} recordings, expected one. Choose one of them.")
    else:
        waveform, rate = getattr(audio, "waveform", None), getattr(audio, "sample_rate", None)
    if waveform is None:
        kind = type(audio).__name__
        raise InputError(f"{name}: no waveform in it (found {kind}), expected AUDIO. Connect a node that gives sound.")
    if rate is None:
        raise InputError(f"{name}: it has no sample_rate. Connect Load Audio.")
    return waveform, rate


def _tensor(values: Any, name: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    try:
        if isinstance(values, (list, tuple)) and values and all(isinstance(each, Tensor) for each in values):
            return torch.stack([each.detach().cpu() for each in values])
        import numpy

        return torch.from_numpy(numpy.array(values))
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(values).__name__
        raise InputError(f"{name}: its waveform is a {kind} that holds no samples. Connect Load Audio.") from error


def _scaled(samples: Tensor, name: str) -> Tensor:
    """Samples as float32, integers scaled to -1..1."""
    if samples.dtype == torch.uint8:
        return (samples.float() - 128) / 128
    if samples.dtype in _LEVELS:
        return (samples.double() / _LEVELS[samples.dtype]).float()
    if not samples.is_floating_point():
        raise InputError(f"{name}: samples are {samples.dtype}, expected floats of -1..1. Divide by full scale.")
    return samples.float()


def _whole(rate: Any, name: str) -> int:
    try:
        value = float(rate)
        if value == int(value) and not isinstance(rate, bool):
            return int(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass
    raise InputError(f"{name}: sample rate {str(rate)[:40]!r}, expected a whole number such as 44100.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or getattr(value, "ndim", None) == 0
