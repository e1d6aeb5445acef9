"""Teaches the toy's networks in windows of the picture, most of them around the mouth.

A mouth covers 12 of the 216 cells of a latent frame and makes 5 % of the loss, so a short training learns everything
else first, and a CPU has no time for a long one. A window has 4 x 4 of a frame's 6 x 9 tokens, so a step costs a fifth,
and in it the mouth's cells count six times. Every fifth step sees whole pictures.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..model.conditioning import Conditioning
from ..model.config import Grid
from ..model.hallo3 import Hallo3
from ..runtime.compiling import check_compiler, compile_blocks
from ..toy.learning.budget import Budget, rate
from ..vae.autoencoder import VideoVae
from . import checkpoints
from .cache import FilmEntry
from .config import NetworkSizes
from .interrupting import Stopped, asked_to_stop
from .optimiser import average_decay, update_average
from .processes import Processes
from .result import transformer_tensors, write_result
from .start import InputSizes, Maker, networks_of, read_start
from .step import step
from .toy_clips import LessonClips
from .toy_window import LatentWindow, Size

MOUTH_WEIGHT = 6.0  # of a cell that the mouth's box touches, against 1
RATE, OTHERS_RATE = 1.5e-3, 5e-4  # audio modules, all others
WARM_UP, DECAY_FROM, LAST = 100, 0.4, 0.02  # steps; share of the time; share of the rate
AVERAGE, DECAY, CLIP = 0.998, 1e-3, 1.0
LOGGED = 100  # steps
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lesson:
    """start: a transformer file with audio modules. result: the file to write. place: a folder for checkpoints, from
    which an interrupted lesson goes on. seconds: of training."""

    start: Path
    result: Path
    place: Path
    seconds: float
    window: Size = (4, 4)
    batch: int = 16
    seed: int = 0
    device: str = "cpu"
    checkpoint_minutes: float = 5.0
    compile: bool = True  # where a compiler is


def teach(
    lesson: Lesson, network: NetworkSizes, inputs: InputSizes, entries: Sequence[FilmEntry], vae: VideoVae
) -> dict[str, Any]:
    """Writes the result; returns the number of steps and the last steps' mean loss.

    The entries need weights: `data.mouth_weight` is `MOUTH_WEIGHT`. They also say where the mouth is.

    Raises:
        Stopped: the process was asked to stop; the next call with the same lesson resumes.
    """
    start, device = read_start([lesson.start]), torch.device(lesson.device)
    maker = Maker(network, torch.Generator().manual_seed(lesson.seed), device)
    pupil = Pupil(networks_of(start, "speech", network, Conditioning(), inputs, maker))
    number, spent = pupil.resume(lesson.place, device)
    window = LatentWindow(pupil.networks.denoiser.config, Grid(*inputs.grid), device)
    if lesson.compile:
        compile_where_possible(pupil.networks, device)
    clips = LessonClips(entries, vae, window=lesson.window, batch=lesson.batch, seed=lesson.seed, device=device)
    budget, losses, saved = Budget(lesson.seconds, spent), [], spent
    with asked_to_stop() as stop:
        while not (budget.over and number):
            number += 1
            losses = [*losses[-LOGGED + 1 :], pupil.learns(clips, window, number, budget.share)]
            if number % LOGGED == 0:
                log.info("step %d, %.0f s: loss %.4f", number, budget.spent, torch.stack(losses).mean())
            stopping = stop()
            if stopping or budget.spent - saved > 60 * lesson.checkpoint_minutes:
                saved = budget.spent
                pupil.save(lesson.place, number, saved, device)
            if stopping:
                raise Stopped
    card = {"start": start.identity, "mode": "lesson in windows", "steps": number, "seed": lesson.seed}
    values = dict(zip(pupil.parameters, pupil.average, strict=True))
    write_result(lesson.result, transformer_tensors(start, pupil.networks, values, torch.float32), card, Conditioning())
    return {"steps": number, "batch": lesson.batch, "loss": float(torch.stack(losses).mean())}


class Pupil:
    """The networks in training, with their optimiser and moving average."""

    def __init__(self, networks: Hallo3):
        self.networks, self.parameters = networks.requires_grad_(True), dict(networks.named_parameters())
        for block in (*networks.denoiser.blocks, *networks.reference_net.blocks):
            block.attention = half_precision_attention
        self.average = [p.detach().clone() for p in self.parameters.values()]
        audio = [p for name, p in self.parameters.items() if "audio" in name]
        others = [p for name, p in self.parameters.items() if "audio" not in name]
        groups = [{"params": audio}, {"params": others}]
        self.optimiser = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), weight_decay=DECAY)

    def learns(self, clips: LessonClips, window: LatentWindow, number: int, share: float) -> Tensor:
        """One step; returns its loss. share: of the time that is spent."""
        view = clips.view(number)
        window.at(view.place, view.size)
        with torch.autocast(view.drawn.clip.device.type, torch.bfloat16):
            loss = step(self.networks, window.cut(view.drawn), layout=window.layout).loss.mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), CLIP)
        factor = rate(share, number, WARM_UP, DECAY_FROM, LAST)
        for group, peak in zip(self.optimiser.param_groups, (RATE, OTHERS_RATE), strict=True):
            group["lr"] = peak * factor
        self.optimiser.step()
        self.optimiser.zero_grad()
        update_average(self.average, list(self.parameters.values()), average_decay(number, AVERAGE))
        return loss.detach()

    def save(self, folder: Path, number: int, spent: float, device: torch.device) -> None:
        """Writes a checkpoint."""
        checkpoints.save(folder, number, self._state(), {"spent": spent}, Processes(0, 1, device), keep=1)

    def resume(self, folder: Path, device: torch.device) -> tuple[int, float]:
        """Loads the newest checkpoint; returns its step and the seconds spent until then, zeros if there is none."""
        found = checkpoints.latest(folder)
        if found is None:
            return 0, 0.0
        path, info = found
        for p in self.parameters.values():
            self.optimiser.state[p] = {"step": torch.tensor(float(info["step"]))}
            self.optimiser.state[p] |= {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
        checkpoints.load(path, self._state(), Processes(0, 1, device))
        return info["step"], info["spent"]

    def _state(self) -> dict[str, Tensor]:
        state = {}
        for (name, p), average in zip(self.parameters.items(), self.average, strict=True):
            moments = self.optimiser.state[p]
            values = {"value": p.detach(), "average": average}
            values |= {key: moments[key] for key in ("exp_avg", "exp_avg_sq") if key in moments}
            state |= {f"{name}.{kind}": tensor for kind, tensor in values.items()}
        return state


def compile_where_possible(networks: Hallo3, device: torch.device) -> None:
    """Compiles the blocks; without a compiler they are only slower."""
    try:
        check_compiler(device)
    except InputError as error:
        log.info("not compiled, which only takes longer: %s", error)
        return
    for network in (networks.denoiser, networks.reference_net):
        compile_blocks(network)


def half_precision_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in bf16 as two matrix products, ``b h n d``. On a CPU, torch's own takes three times as long to train
    at this size."""
    q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), dim=-1)
    return weights @ v
