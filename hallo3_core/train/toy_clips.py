"""The clips of the toy's lesson: where each step looks, and what it draws. Everything depends on (seed, step) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..sampling.schedule import TRAINING_STEPS
from ..vae.autoencoder import VideoVae
from .cache import FilmEntry
from .draw import Chances, Drawn, draw, first_frames
from .draws import Keyed, mixed
from .samples import Resident
from .toy_window import Place, Size, place_of

TOWARDS_NOISE = 0.7  # timesteps are 1000 u ** 0.7 with u uniform: large noise, where sound decides, more often
WHOLE_EVERY, SMALLER = 5, 4  # every fifth step sees whole pictures, with a quarter of the clips
ELSEWHERE = 0.3  # share of the other steps whose window is anywhere, not around the mouth
VARIANTS = 2  # of each clip's first frames, spoiled and encoded beforehand
TOGETHER = 8  # clips per VAE call
# The concat latent shows the portrait too, so a network that always has it learns nothing from the reference.
CHANCES = Chances(drop_audio=0.1, drop_text=0.1, drop_concat=0.25, drop_reference=0.15)


class View(NamedTuple):
    """A step's window, and what it draws; latents are those of the whole picture."""

    place: Place
    size: Size
    drawn: Drawn


class LessonClips:
    """Draws steps. A clip's first frames are spoiled and encoded once, in `VARIANTS`, since their encoding would take
    longer than the step. Clips of a step around the mouth have their mouths at the same place."""

    def __init__(
        self, entries: Sequence[FilmEntry], vae: VideoVae, *, window: Size, batch: int, seed: int, device: torch.device
    ):
        self._samples, self._device = Resident(entries, device), device
        self._window, self._batch, self._seed = window, batch, seed
        self._whole: Size = tuple(side // 2 for side in entries[0].weight.shape)
        places = [place for entry in entries for place in [place_of(entry.weight, window)] * len(entry.clip)]
        groups = {place: [n for n, other in enumerate(places) if other == place] for place in dict.fromkeys(places)}
        self._groups = [(place, torch.tensor(members)) for place, members in groups.items()]
        self._shares = torch.tensor([float(len(members)) for _, members in self._groups])
        self._concat = torch.stack([self._encoded(vae, variant) for variant in range(VARIANTS)])

    def view(self, step: int) -> View:
        """What a step sees."""
        order = torch.Generator().manual_seed(mixed(self._seed, step, 2))
        members, count, size = torch.arange(self._samples.count), self._batch, self._window
        if step % WHOLE_EVERY == 0:
            place, size, count = (0, 0), self._whole, max(1, self._batch // SMALLER)
        elif torch.rand((), generator=order) < ELSEWHERE:
            free = [whole - part + 1 for whole, part in zip(self._whole, size, strict=True)]
            place = tuple(int(torch.randint(most, (), generator=order)) for most in free)
        else:
            place, members = self._groups[int(torch.multinomial(self._shares, 1, generator=order))]
        clips = members[torch.randint(len(members), (count,), generator=order)].to(self._device)
        variants = torch.randint(VARIANTS, (count,), generator=order).to(self._device)
        draws = Keyed(self._seed, step, count, device=self._device)
        drawn = draw(self._samples.batch(clips, draws), _Encoded(self._concat[variants, clips]), draws, CHANCES)
        even = (torch.arange(count) + torch.rand(count, generator=order)) / count
        timesteps = (TRAINING_STEPS * even**TOWARDS_NOISE).long().clamp(max=TRAINING_STEPS - 1)
        return View(place, size, drawn._replace(timesteps=timesteps.to(self._device)))

    def _encoded(self, vae: VideoVae, variant: int) -> Tensor:
        """Moments ``n 32 1 h w`` of every clip's first frames, spoiled."""
        found = []
        for first in range(0, self._samples.count, TOGETHER):
            clips = torch.arange(first, min(first + TOGETHER, self._samples.count), device=self._device)
            draws = Keyed(mixed(self._seed, variant), first, len(clips), device=self._device)
            found.append(first_frames(self._samples.batch(clips, draws), vae, draws, CHANCES))
        return torch.cat(found)


@dataclass(frozen=True)
class _Encoded:
    """Stands for the VAE in `draw`: returns moments that are known already."""

    moments: Tensor

    def unchecked_moments(self, pixels: Tensor) -> Tensor:
        return self.moments
