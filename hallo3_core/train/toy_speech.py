"""Teaches the toy's audio modules on a window of the latent around the mouth.

A mouth covers 12 of the 216 cells of a latent frame and makes 5 % of the loss, so a short training learns everything
else first. The window has 4 x 4 of a frame's 6 x 9 tokens and keeps their positions, so a step costs a fifth. In it the
mouth's cells count six times, and large noise, where sound decides about the mouth, is drawn more often. The denoiser's
other weights follow at a small learning rate; the reference network and the face projector stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..model.conditioning import Conditioning
from ..model.config import Grid
from ..model.hallo3 import Hallo3
from ..model.positions import Layout, Rotary, rotary_table
from ..model.trunk import Trunk
from ..sampling.schedule import TRAINING_STEPS
from ..toy.learning.budget import Budget, rate
from ..vae.autoencoder import VideoVae
from .cache import Entry
from .config import Network
from .draw import Chances, Drawn, draw, first_frames
from .draws import Keyed, mixed
from .optimiser import average_decay, update_average
from .result import transformer_tensors, write_result
from .samples import Resident
from .start import InputSizes, Maker, networks_of, read_start
from .step import step

MOUTH_WEIGHT = 6.0  # of a cell that the mouth's box touches, against 1
TOWARDS_NOISE = 0.6  # timesteps are 1000 u ** 0.6 with u uniform
RATE, OTHERS_RATE = 2e-3, 1.5e-4  # audio modules, the rest of the denoiser
WARM_UP, DECAY_FROM, LAST = 60, 0.5, 0.03  # steps; share of the time; share of the rate
AVERAGE, DECAY, CLIP = 0.995, 1e-3, 1.0
VARIANTS = 2  # of each clip's first frames, spoiled and encoded beforehand
TOGETHER = 8  # clips per VAE call
CHANCES = Chances(drop_audio=0.1, drop_text=0.1)
LOGGED = 100  # steps
log = logging.getLogger(__name__)

Size = tuple[int, int]  # rows and columns, in tokens
Place = tuple[int, int]  # the window's first row and column, in tokens


@dataclass(frozen=True)
class Lesson:
    """Where the training starts and ends: a transformer file with audio modules; the result's path; the seconds of
    training, the window's size, the number of clips per step, the seed and the device."""

    start: Path
    result: Path
    seconds: float
    window: Size = (4, 4)
    batch: int = 16
    seed: int = 0
    device: str = "cpu"


def teach_speech(
    lesson: Lesson, network: Network, inputs: InputSizes, entries: Sequence[Entry], vae: VideoVae
) -> dict[str, Any]:
    """Writes the result; returns the number of steps and the last steps' mean loss in the window.

    The entries need weights: `data.mouth_weight` is `MOUTH_WEIGHT`. They also say where the mouth is.
    """
    start = read_start([lesson.start])
    maker = Maker(network, torch.Generator().manual_seed(lesson.seed), lesson.device)
    networks = networks_of(start, "speech", network, Conditioning(), inputs, maker)
    trained = _trained(networks)
    average = [p.detach().clone() for p in trained.values()]
    optimiser = _optimiser(trained)
    window, clips = Window(networks, Grid(*inputs.grid), lesson.window), Clips(entries, vae, lesson)
    budget, number, losses = Budget(lesson.seconds), 0, []
    while not (budget.over and number):
        factor = rate(budget.share, number, WARM_UP, DECAY_FROM, LAST)
        number += 1
        window.place, drawn = clips.drawn(number)
        loss = step(networks, window.cut(drawn)).loss.mean()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.values(), CLIP)
        for group, peak in zip(optimiser.param_groups, (RATE, OTHERS_RATE), strict=True):
            group["lr"] = peak * factor
        optimiser.step()
        optimiser.zero_grad()
        update_average(average, list(trained.values()), average_decay(number, AVERAGE))
        losses = [*losses[-LOGGED + 1 :], loss.detach()]
        if number % LOGGED == 0:
            log.info("step %d, %.0f s: loss %.4f", number, budget.spent, torch.stack(losses).mean())
    card = {"start": start.identity, "mode": "speech, in a window", "steps": number, "seed": lesson.seed}
    values = dict(zip(trained, average, strict=True))
    write_result(lesson.result, transformer_tensors(start, networks, values, torch.float32), card, Conditioning())
    return {"steps": number, "batch": lesson.batch, "window_loss": float(torch.stack(losses).mean())}


def place_of(weight: Tensor, window: Size) -> Place:
    """The window around the heavy cells of a weight ``h w``, as far as the picture allows."""
    centre = (weight > weight.min()).nonzero().double().mean(0) + 0.5  # cells
    corner = (centre / 2 - torch.tensor(window) / 2).round().long().tolist()
    row, column = (
        min(max(at, 0), side // 2 - length) for at, side, length in zip(corner, weight.shape, window, strict=True)
    )
    return row, column


class Window:
    """Cuts the window at `place` out of latents, and makes the networks use its tokens' positions in the picture."""

    def __init__(self, networks: Hallo3, whole: Grid, size: Size):
        self.place: Place = (0, 0)
        self._size = size
        for network in (networks.denoiser, networks.reference_net):
            network.layout = self._layout(network, whole)

    def cut(self, drawn: Drawn) -> Drawn:
        """The window's latents, and their weights, scaled to a mean of 1."""
        part = (..., *(slice(2 * at, 2 * (at + length)) for at, length in zip(self.place, self._size, strict=True)))
        weight = drawn.weight[part]
        latents = {name: getattr(drawn, name)[part] for name in ("clip", "concat", "reference", "noise")}
        return drawn._replace(**latents, weight=weight / weight.mean((1, 2), keepdim=True))

    def _layout(self, network: Trunk, whole: Grid) -> Callable[..., Layout]:
        turns = rotary_table(whole, whole, network.config.head, network.video_positions.device).turns
        turns = turns.unflatten(0, (whole.frames, whole.rows, whole.columns))

        def layout(grid: Grid, dtype: torch.dtype, device: torch.device | str | None = None) -> Layout:
            row, column = self.place
            part = (slice(grid.frames), slice(row, row + grid.rows), slice(column, column + grid.columns))
            rotary = Rotary(turns[part].flatten(0, 2))
            video = network.video_positions[part].flatten(0, 2)
            return Layout(grid, network.text_positions, video, rotary, rotary.first_frame(grid))

        return layout


class Clips:
    """Draws steps from clips whose mouths are at the same place; a clip's first frames are spoiled and encoded once, in
    `VARIANTS`, since their encoding would take longer than the step."""

    def __init__(self, entries: Sequence[Entry], vae: VideoVae, lesson: Lesson):
        self._samples, self._lesson = Resident(entries, lesson.device), lesson
        self._order = torch.Generator().manual_seed(lesson.seed)
        places = [place for entry in entries for place in [place_of(entry.weight, lesson.window)] * len(entry.clip)]
        groups = {place: [n for n, other in enumerate(places) if other == place] for place in dict.fromkeys(places)}
        self._groups = [(place, torch.tensor(members)) for place, members in groups.items()]
        self._shares = torch.tensor([float(len(members)) for _, members in self._groups])
        self._concat = torch.stack([self._encoded(vae, variant) for variant in range(VARIANTS)])

    def drawn(self, number: int) -> tuple[Place, Drawn]:
        """The clips of a step and its draws; latents are those of the whole picture."""
        place, members = self._groups[int(torch.multinomial(self._shares, 1, generator=self._order))]
        count, device = self._lesson.batch, self._lesson.device
        clips = members[torch.randint(len(members), (count,), generator=self._order)].to(device)
        variants = torch.randint(VARIANTS, (count,), generator=self._order).to(device)
        draws = Keyed(self._lesson.seed, number, count, device=device)
        drawn = draw(self._samples.batch(clips, draws), Encoded(self._concat[variants, clips]), draws, CHANCES)
        even = (torch.arange(count) + torch.rand(count, generator=self._order)) / count
        timesteps = (TRAINING_STEPS * even**TOWARDS_NOISE).long().clamp(max=TRAINING_STEPS - 1)
        return place, drawn._replace(timesteps=timesteps.to(device))

    def _encoded(self, vae: VideoVae, variant: int) -> Tensor:
        """Moments ``n 32 1 h w`` of every clip's first frames, spoiled."""
        found = []
        for first in range(0, self._samples.count, TOGETHER):
            clips = torch.arange(first, min(first + TOGETHER, self._samples.count), device=self._lesson.device)
            draws = Keyed(mixed(self._lesson.seed, variant), first, len(clips), device=self._lesson.device)
            found.append(first_frames(self._samples.batch(clips, draws), vae, draws, CHANCES))
        return torch.cat(found)


@dataclass(frozen=True)
class Encoded:
    """Stands for the VAE in `draw`: returns moments that are known already."""

    moments: Tensor

    def unchecked_moments(self, pixels: Tensor) -> Tensor:
        return self.moments


def _trained(networks: Hallo3) -> dict[str, nn.Parameter]:
    found = {}
    for name, parameter in networks.named_parameters():
        parameter.requires_grad_("audio" in name or name.startswith("denoiser."))
        if parameter.requires_grad:
            found[name] = parameter
    return found


def _optimiser(trained: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Two groups: audio modules, and the rest."""
    audio = [p for name, p in trained.items() if "audio" in name]
    others = [p for name, p in trained.items() if "audio" not in name]
    return torch.optim.AdamW([{"params": audio}, {"params": others}], betas=(0.9, 0.95), weight_decay=DECAY)
