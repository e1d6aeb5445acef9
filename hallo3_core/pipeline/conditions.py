"""What is constant over all clips of a film, and the network's evaluations of a clip with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..inputs.portrait import Portrait
from ..inputs.text import null_text
from ..model.attention import Folded, KeysValues
from ..model.denoiser import Conditions, Denoiser
from ..model.modulation import Modulation
from ..model.positions import Layout
from ..sampling.guidance import Branch
from ..sampling.schedule import Schedule, make_schedule
from ..vae.latents import film_grid
from .options import Settings

Evaluate = Callable[[Tensor, int, Sequence[Branch]], Sequence[Tensor]]  # state, step, branches -> their velocities


@dataclass(frozen=True)
class Run:
    """What is constant over all clips of a film, computed once. Keyed by whether the condition is the user's."""

    settings: Settings
    schedule: Schedule
    layout: Layout
    modulation: Modulation
    text: dict[bool, Tensor]
    reference: dict[bool, Sequence[KeysValues]]
    face: Sequence[KeysValues | Folded]
    null_audio: Sequence[KeysValues | Folded] | None
    dtype: torch.dtype
    evaluations: Callable[[Denoiser, Run, Tensor, Tensor], Evaluate]  # of a clip: `Evaluations`, or on several cards


def prepare_run(
    denoiser: Denoiser,
    portrait: Portrait,
    settings: Settings,
    *,
    text: Tensor,
    face_tokens: Tensor,
    null_audio_tokens: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Run:
    """Everything constant over the clips; what no evaluation needs is not computed.

    text ``1 m w`` (its null is zeros), face tokens ``1 n c``, tokens of silence ``1 t n c``. Afterwards the
    denoiser's modulation is not needed on the device.
    """
    schedule = make_schedule(settings.steps)
    branches = settings.branches()
    device = denoiser.video_positions.device
    banks = {True: portrait.bank, False: portrait.null_bank}
    texts = {True: text, False: null_text(text)}
    timesteps = torch.tensor(schedule.timesteps, dtype=torch.float32, device=device)
    grid = film_grid(*portrait.pixels.shape[-2:], denoiser.config)
    return Run(
        settings=settings,
        schedule=schedule,
        layout=denoiser.layout(grid, dtype),
        modulation=denoiser.modulate_steps(timesteps, dtype),
        text={b: denoiser.embed_text(texts[b].to(device, dtype)) for b in {branch.text for branch in branches}},
        reference={
            b: denoiser.reference_keys_values([features.to(device, dtype) for features in banks[b]])
            for b in {branch.reference for branch in branches}
        },
        face=denoiser.face_keys_values(face_tokens.to(device, dtype)),
        null_audio=denoiser.audio_keys_values(null_audio_tokens.to(device, dtype))
        if any(not branch.audio for branch in branches)
        else None,
        dtype=dtype,
        evaluations=Evaluations,
    )


class Evaluations:
    """The evaluations of one clip, with concat latent ``1 16 t h w`` and audio tokens ``1 t n c``.

    call: state ``1 16 t h w``, step, branches -> a velocity ``1 16 t h w`` for each branch, from one batch.
    """

    def __init__(self, denoiser: Denoiser, run: Run, concat: Tensor, audio_tokens: Tensor):
        self._denoiser, self._run = denoiser, run
        self._concat = concat.to(run.dtype)
        self._audio = {
            True: denoiser.audio_keys_values(audio_tokens.to(concat.device, run.dtype)),
            False: run.null_audio,
        }

    def __call__(self, x: Tensor, step: int, branches: Sequence[Branch]) -> Sequence[Tensor]:
        run = self._run
        batch = x.to(run.dtype).expand(len(branches), -1, -1, -1, -1)
        given = join_branches(branches, run.text, run.reference, run.face, self._audio)
        return self._denoiser(batch, self._concat, given, run.modulation.step(step), run.layout).split(1)


def join_branches(
    branches: Sequence[Branch],
    text: Mapping[bool, Tensor],
    reference: Mapping[bool, Sequence[KeysValues]] | None,
    face: Sequence[KeysValues | Folded] | None,
    audio: Mapping[bool, Sequence[KeysValues | Folded]] | None,
) -> Conditions:
    """What a batch of one sample for each of `branches` is told; mappings by whether the condition is the user's."""
    return Conditions(
        text=torch.cat([text[branch.text] for branch in branches]),
        reference=reference and stack([reference[branch.reference] for branch in branches]),
        face=face,
        audio=audio and stack([audio[branch.audio] for branch in branches]),
    )


def stack(branches: Sequence[Sequence[KeysValues | Folded]]) -> Sequence[KeysValues | Folded]:
    """Keys and values of several branches as one batch; where all have the same, it stays a batch of 1."""
    return branches[0] if all(branch is branches[0] for branch in branches) else Stacked(branches)


class Stacked(Sequence):
    """Each layer's tensors are put together when the layer is reached, lest those of all layers are there twice."""

    def __init__(self, branches: Sequence[Sequence[KeysValues | Folded]]):
        self._branches = branches

    def __len__(self) -> int:
        return len(self._branches[0])

    def __getitem__(self, layer: int) -> KeysValues | Folded:
        each = [branch[layer] for branch in self._branches]
        return type(each[0])(*(torch.cat(tensors) for tensors in zip(*each, strict=True)))
