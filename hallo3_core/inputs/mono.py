"""The mono mix that the model hears, and what it falls back to where channels cancel each other.

A stereo recording with one inverted channel is silent in mono, and the mouth would stand still. This is checked for the
whole recording and for each part of it. Where the mix cancels, the loudest channel is heard alone; a recording that
cancels nowhere is mixed exactly as `mono_weights` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .mixing import mixed

CANCELLED = 1 / 16  # relative to the power of uncorrelated channels: -12 dB
ROUNDING = 1e-18  # sum of squares that float64 rounding leaves of a constant signal
WINDOW = 1 / 25  # seconds that are judged at once: a film frame
QUIET = 1e-3  # relative to the recording's mean power, -30 dB: such windows are pauses, which decide nothing
FLOOR = 1e-11  # power, -110 dB: below 16-bit sound, and above what float32 rounding leaves of a constant signal
SHORTEST = 0.2  # seconds of audible sound; by chance, measured on 33 recordings, at most 0.12 cancel
FADE = WINDOW / 2  # seconds, outside the stretch; so two stretches never overlap


class Alone(NamedTuple):
    """A stretch of samples in which one channel is heard alone."""

    start: int
    stop: int
    channel: int


@dataclass(frozen=True, eq=False)
class MonoMix:
    """Mixes a recording to mono: each channel's weight ``channels``, and the stretches where one is heard alone, with
    `fade` samples of crossfade before and after each."""

    weights: Tensor
    alone: tuple[Alone, ...] = ()
    fade: int = 1

    def of(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Mixes a whole recording, in chunks of any size: ``channels samples -> 1 samples`` each."""
        start = 0
        for piece in pieces:
            gains = self._gains(start, piece.shape[1])
            yield mixed(piece, self.weights[None]) if gains is None else (gains * piece).sum(0, keepdim=True)
            start += piece.shape[1]

    def _gains(self, start: int, samples: int) -> Tensor | None:
        """Each channel's gain in a chunk, ``channels samples``; None if no stretch reaches into it."""
        stop, gains = start + samples, None
        for stretch in self.alone:
            if stretch.start - self.fade < stop and start < stretch.stop + self.fade:
                places = torch.arange(start, stop)
                inside = torch.minimum(places - stretch.start, stretch.stop - 1 - places)  # below 0 in the crossfades
                share = (1 + inside / self.fade).clamp(0, 1)
                gains = self.weights[:, None].expand(-1, samples) if gains is None else gains
                gains = gains + share * (_one(self.weights, stretch.channel) - self.weights)[:, None]
        return gains


def mono_mix(weights: Tensor, waveform: Tensor, rate: int, piece: int) -> tuple[MonoMix, Tensor]:
    """The mix of a recording ``channels samples`` by `weights` ``channels``, and each channel's mean.

    `alone` is empty if nothing cancels, and one stretch without end if the recording cancels as a whole.
    """
    whole, mean = _cancels(weights, waveform.split(piece, dim=1))
    fade = max(1, round(rate * FADE))
    if whole is not None:
        return MonoMix(_one(weights, whole), (Alone(0, waveform.shape[1], whole),), fade), mean
    return MonoMix(weights, tuple(_stretches(weights, waveform, rate)), fade), mean


def _cancels(weights: Tensor, pieces: tuple[Tensor, ...]) -> tuple[int | None, Tensor]:
    """The loudest channel if a recording in chunks ``channels samples`` cancels as a whole, else None; and each
    channel's mean."""
    mean = sum(piece.double().sum(1) for piece in pieces) / sum(piece.shape[1] for piece in pieces)
    covariance = 0  # multiplied by the number of samples
    for piece in pieces:
        moved = piece.double() - mean[:, None]
        covariance = covariance + moved @ moved.T
    own = weights.double().square() * covariance.diagonal()
    if own.sum() < ROUNDING or weights.double() @ covariance @ weights.double() >= CANCELLED * own.sum():
        return None, mean
    return int(own.argmax()), mean


def _stretches(weights: Tensor, waveform: Tensor, rate: int) -> Iterator[Alone]:
    """The stretches of a recording ``channels samples`` in which the mix cancels, in order."""
    size = max(1, round(rate * WINDOW))
    if len(weights) < 2:
        return
    own, mix = _powers(weights, waveform, size)
    total = own.sum(0)
    cancelled = (total > FLOOR) & (mix < CANCELLED * total)
    audible = total > (QUIET * total.mean()).clamp(min=FLOOR)
    run = (audible & ~cancelled).cumsum(0)  # the same number from one window that is fine to the next
    for number in run[cancelled & audible].unique():
        inside = cancelled & (run == number)
        if (inside & audible).sum() * size < SHORTEST * rate:
            continue
        first, last = inside.nonzero()[[0, -1], 0].tolist()
        stop = min(waveform.shape[1], (last + 1) * size)
        yield Alone(first * size, stop, int(own[:, inside].sum(1).argmax()))


def _powers(weights: Tensor, waveform: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Powers in windows of `size` samples, without each window's mean: the weighted channels' ``channels windows``, and
    the mix's ``windows``."""
    own, mix = [], []
    for piece in waveform.split(size * max(1, 65_536 // size), dim=1):
        for part in (piece[:, : piece.shape[1] // size * size], piece[:, piece.shape[1] // size * size :]):
            if part.shape[1]:
                windows = part.unflatten(1, (-1, min(size, part.shape[1]))) * weights[:, None, None]
                windows = windows - windows.mean(2, keepdim=True)
                own.append(windows.square().mean(2))
                mix.append(windows.sum(0).square().mean(1))
    return torch.cat(own, 1).double(), torch.cat(mix).double()


def _one(weights: Tensor, channel: int) -> Tensor:
    """Weights of one channel alone."""
    return torch.zeros_like(weights).index_fill(0, torch.tensor(channel), 1)
