"""The conditions that are constant over a film or a clip, each computed once, and the model calls that use them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..inputs.portrait import Portrait
from ..inputs.text import null_text
from ..model.attention import KeysValues
from ..model.blocks import LayerCondition
from ..model.config import Grid
from ..model.denoiser import Conditions, Denoiser, ReferenceBank
from ..model.modulation import Modulation
from ..model.positions import Layout
from ..sampling.guidance import Branch
from ..sampling.schedule import Schedule, make_schedule
from ..vae.latents import film_grid
from .options import Settings

T, Made = TypeVar("T"), TypeVar("Made")
Layers = Sequence[LayerCondition]  # a condition as each layer reads it, one entry per layer
Evaluate = Callable[[Tensor, int, Sequence[Branch]], Sequence[Tensor]]  # state, step, branches -> their velocities


class WithNull(NamedTuple, Generic[T]):
    """A condition as the user gave it, and its null (its trained absence). Either is None if no branch needs it."""

    given: T | None
    null: T | None

    def pick(self, is_given: bool) -> T:
        return self.given if is_given else self.null

    def prepare(self, function: Callable[[T], Made], needed: Collection[bool]) -> WithNull[Made]:
        """Applies `function` to the needed ones; the others become None."""
        return WithNull(
            function(self.given) if True in needed else None,
            function(self.null) if False in needed else None,
        )


@dataclass(frozen=True, eq=False)
class FilmConditions:
    """The conditions constant over all clips of a film, on a device; made by `film_conditions`.

    text: ``1 m D``. Portrait, face and audio are None for the plain CogVideoX transformer. modulation is None if the
    steps are not known in advance.
    """

    layout: Layout
    text: WithNull[Tensor]
    reference: WithNull[Sequence[KeysValues] | None] | None = None
    face: Layers | None = None
    null_audio: Layers | None = None
    modulation: Modulation | None = None  # of all steps of a run


class FilmInputs(NamedTuple):
    """What is constant over a film's clips, before the denoiser's layers have read it. None for a condition that the
    network does not read.

    text: ``1 m w`` (its null is zeros). bank: ``1 n D`` per layer. face tokens: ``1 n c``. null audio tokens, those of
    silence: ``1 t n c``.
    """

    text: Tensor
    bank: WithNull[ReferenceBank | None]
    face_tokens: Tensor | None
    null_audio_tokens: Tensor | None


def film_conditions(
    denoiser: Denoiser,
    inputs: FilmInputs,
    branches: Collection[Branch],
    timesteps: Tensor,
    *,
    grid: Grid,
    dtype: torch.dtype,
    device: torch.device | str,
) -> FilmConditions:
    """Computes the conditions constant over a film's clips, once per portrait, skipping those that no branch needs.

    timesteps: ``n``, of the run's steps. The denoiser's LoRAs are included. Its modulation weights are not needed
    afterwards.
    """

    def placed(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to(device, dtype)

    def embed(value: Tensor) -> Tensor:
        return denoiser.embed_text(placed(value))

    def reference(features: ReferenceBank | None) -> list[KeysValues] | None:
        return denoiser.reference_keys_values(features and [placed(each) for each in features])

    needs_silence = any(not branch.audio for branch in branches)
    return FilmConditions(
        layout=denoiser.layout(grid, dtype, device),
        text=WithNull(inputs.text, null_text(inputs.text)).prepare(embed, {branch.text for branch in branches}),
        reference=inputs.bank.prepare(reference, {branch.reference for branch in branches}),
        face=denoiser.face_keys_values(placed(inputs.face_tokens)),
        null_audio=denoiser.audio_keys_values(placed(inputs.null_audio_tokens)) if needs_silence else None,
        modulation=denoiser.modulate_steps(timesteps.to(device), dtype),
    )


@dataclass(frozen=True, eq=False)
class ClipConditions:
    """The conditions constant over the steps of a clip: the film's and the clip's audio; made by `clip_conditions`."""

    film: FilmConditions
    audio: WithNull[Layers | None] | None = None

    def join(self, branches: Sequence[Branch]) -> Conditions:
        """The conditions for a batch with one sample per branch."""
        film, audio = self.film, self.audio
        return Conditions(
            text=torch.cat([film.text.pick(branch.text) for branch in branches]),
            reference=film.reference and stack([film.reference.pick(branch.reference) for branch in branches]),
            face=film.face,
            audio=audio and stack([audio.pick(branch.audio) for branch in branches]),
        )


def clip_conditions(denoiser: Denoiser, film: FilmConditions, audio_tokens: Tensor | None) -> ClipConditions:
    """A clip's conditions, with its audio tokens ``1 t n c``, or None if the network reads no audio."""
    tokens = None if audio_tokens is None else audio_tokens.to(film.layout.video)
    return ClipConditions(film, WithNull(denoiser.audio_keys_values(tokens), film.null_audio))


@dataclass(frozen=True, eq=False)
class Run:
    """A film's settings, and everything computed from them once; made by `prepare_run`."""

    settings: Settings
    schedule: Schedule
    conditions: FilmConditions
    dtype: torch.dtype


def prepare_run(
    denoiser: Denoiser,
    portrait: Portrait,
    settings: Settings,
    *,
    text: Tensor,
    face_tokens: Tensor | None,
    null_audio_tokens: Tensor | None,
    dtype: torch.dtype = torch.float32,
) -> Run:
    """Prepares a run on the denoiser's current device. The other arguments are those of `FilmInputs`."""
    schedule = make_schedule(settings.steps)
    conditions = film_conditions(
        denoiser,
        FilmInputs(text, WithNull(portrait.bank, portrait.null_bank), face_tokens, null_audio_tokens),
        settings.branches(),
        torch.tensor(schedule.timesteps, dtype=torch.float32),
        grid=film_grid(*portrait.pixels.shape[-2:], denoiser.config),
        dtype=dtype,
        device=denoiser.video_positions.device,
    )
    return Run(settings, schedule, conditions, dtype)


class ClipCalls:
    """Makes the model calls of one clip, with its concat latent ``1 16 t h w`` and audio tokens ``1 t n c``.

    call: state ``1 16 t h w``, step, branches -> a velocity ``1 16 t h w`` per branch, computed in one batch.
    """

    def __init__(self, denoiser: Denoiser, run: Run, concat: Tensor, audio_tokens: Tensor | None):
        self._denoiser, self._run = denoiser, run
        self._concat = concat.to(run.dtype)
        self._conditions = clip_conditions(denoiser, run.conditions, audio_tokens)

    def __call__(self, x: Tensor, step: int, branches: Sequence[Branch]) -> Sequence[Tensor]:
        film = self._run.conditions
        batch = x.to(self._run.dtype).expand(len(branches), -1, -1, -1, -1)
        conditions = self._conditions.join(branches)
        return self._denoiser(batch, self._concat, conditions, film.modulation.step(step), film.layout).split(1)


def stack(branches: Sequence[Layers | None]) -> Layers | None:
    """Joins keys and values of several branches into one batch; if all are the same object, it stays a batch of 1."""
    return branches[0] if all(branch is branches[0] for branch in branches) else Stacked(branches)


class Stacked(Sequence):
    """Concatenates each layer's tensors only when the layer is reached, so that memory holds one layer's copy."""

    def __init__(self, branches: Sequence[Layers]):
        self._branches = branches

    def __len__(self) -> int:
        return len(self._branches[0])

    def __getitem__(self, layer: int) -> LayerCondition:
        each = [branch[layer] for branch in self._branches]
        return type(each[0])(*(torch.cat(tensors) for tensors in zip(*each, strict=True)))
