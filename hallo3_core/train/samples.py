"""Batches of cached films: which clips a step takes, and how they reach the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..clips import FRAMES_PER_CLIP
from ..inputs.audio import REACH
from .batch import Batch
from .cache import FilmEntry
from .draws import Draws, mixed
from .geometry import to_pixels


class Samples(Protocol):
    """The clips of a set of films; `count` is their number."""

    count: int

    def batch(self, clips: Tensor, draws: Draws) -> Batch:
        """The clips with these indices ``b``, each with a randomly drawn frame of its film as the portrait."""


class Order:
    """The order of clips: every clip once per epoch, shuffled by (seed, epoch) alone."""

    def __init__(self, count: int, seed: int, device: torch.device | str = "cpu"):
        self._count, self._seed, self.device = count, seed, device
        self._epochs: dict[int, Tensor] = {}

    def of(self, start: int, stop: int) -> Tensor:
        """Clip indices of samples `start .. stop-1` of the run."""
        found = []
        while start < stop:
            epoch, at = divmod(start, self._count)
            end = min(stop, (epoch + 1) * self._count)
            found.append(self._epoch(epoch)[at : at + end - start])
            start = end
        return found[0] if len(found) == 1 else torch.cat(found)

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            generator = torch.Generator().manual_seed(mixed(self._seed, epoch, 1))
            self._epochs = {n: order for n, order in self._epochs.items() if n >= epoch - 1}
            self._epochs[epoch] = torch.randperm(self._count, generator=generator).to(self.device)
        return self._epochs[epoch]


class Resident:
    """All data on the device: a step indexes it there, without copies from the host or synchronisation."""

    def __init__(self, entries: Sequence[FilmEntry], device: torch.device | str):
        def joined(values: Sequence[Tensor]) -> Tensor:
            return torch.cat(list(values)).to(device)

        def starts(lengths: Sequence[int]) -> Tensor:
            return torch.tensor([0, *lengths]).cumsum(0)[:-1].to(device)

        self.count = sum(len(entry.clip) for entry in entries)
        self._film = joined([torch.full((len(e.clip),), n) for n, e in enumerate(entries)])
        self._start = joined([e.starts for e in entries])
        self._clip, self._motion = joined([e.clip for e in entries]), joined([e.motion for e in entries])
        portraits, place = _unique([e.portrait for e in entries])
        self._portrait, self._masked = joined(portraits), joined(_unique([e.masked for e in entries])[0])
        self._portraits = torch.tensor([len(e.portrait) for e in entries], device=device)
        self._first_portrait = starts([len(portrait) for portrait in portraits])[place]
        texts, place = _unique([e.text for e in entries])
        self._text, self._text_of = torch.stack(texts).to(device), place.to(device)
        self._face = torch.stack([_face(e) for e in entries]).to(device)
        self._audio = None
        if all(e.audio is not None for e in entries):
            sounds, place = _unique([e.audio for e in entries])
            self._audio = joined(sounds)
            self._heard = torch.tensor([len(e.audio) for e in entries], device=device)
            self._first_heard = starts([len(sound) for sound in sounds])[place]
        self._weight = None if entries[0].weight is None else torch.stack([e.weight for e in entries]).to(device)
        self._around = window_offsets().to(device)

    def batch(self, clips: Tensor, draws: Draws) -> Batch:
        film = self._film[clips]
        drawn = draws.uniform("ref_index").to(clips.device)
        portrait = self._first_portrait[film] + (drawn * self._portraits[film]).long()
        audio = None
        if self._audio is not None:
            frames = self._start[clips, None, None] + self._around
            frames = torch.minimum(frames.clamp(min=0), self._heard[film, None, None] - 1)
            audio = self._audio[self._first_heard[film, None, None] + frames]
        return Batch(
            clip=self._clip[clips].float(),
            motion=to_pixels(self._motion[clips]),
            portrait=to_pixels(self._portrait[portrait]),
            masked=self._masked[portrait].float(),
            text=self._text[self._text_of[film]],
            face=self._face[film],
            audio=audio,
            weight=None if self._weight is None else self._weight[film],
        )


class Mapped:
    """Memory-mapped films: a step reads its samples from the cache files and copies them to the device."""

    def __init__(self, entries: Sequence[FilmEntry], device: torch.device | str):
        self._places = [(entry, k) for entry in entries for k in range(len(entry.clip))]
        self.count, self._device = len(self._places), device
        self._around = window_offsets()

    def batch(self, clips: Tensor, draws: Draws) -> Batch:
        chosen = [self._places[n] for n in clips.tolist()]
        drawn = draws.uniform("ref_index").tolist()
        portraits = [int(u * len(entry.portrait)) for u, (entry, _) in zip(drawn, chosen, strict=True)]
        films = [entry for entry, _ in chosen]

        def stacked(values: Sequence[Tensor]) -> Tensor:
            return torch.stack(list(values)).to(self._device)

        audio = None
        if all(film.audio is not None for film in films):
            audio = stacked([self._windows(film.audio, int(film.starts[k])) for film, k in chosen])
        return Batch(
            clip=stacked([film.clip[k] for film, k in chosen]).float(),
            motion=to_pixels(stacked([film.motion[k] for film, k in chosen])),
            portrait=to_pixels(stacked([f.portrait[r] for f, r in zip(films, portraits, strict=True)])),
            masked=stacked([f.masked[r] for f, r in zip(films, portraits, strict=True)]).float(),
            text=stacked([film.text for film in films]),
            face=stacked([_face(film) for film in films]),
            audio=audio,
            weight=None if films[0].weight is None else stacked([film.weight for film in films]),
        )

    def _windows(self, audio: Tensor, start: int) -> Tensor:
        return audio[(start + self._around).clamp(0, len(audio) - 1)]


def _unique(tensors: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Tensors without repeated ones, and where each is now: entries of one film share theirs."""
    found = {id(tensor): tensor for tensor in tensors}
    places = {key: place for place, key in enumerate(found)}
    return list(found.values()), torch.tensor([places[id(tensor)] for tensor in tensors])


def window_offsets() -> Tensor:
    """Frame indices in the audio windows of a clip, relative to its first frame: ``49 5``."""
    return torch.arange(FRAMES_PER_CLIP)[:, None] + torch.arange(-REACH, REACH + 1)


def _face(entry: FilmEntry) -> Tensor:
    """The face embedding; zeros if the mode does not use one."""
    return torch.zeros(1) if entry.face is None else entry.face
