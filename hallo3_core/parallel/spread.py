"""Rank 0 makes the film as one process would; the others only answer its model calls.

Only rank 0 reads inputs, draws noise, decides, decodes, writes and reports, so the processes cannot diverge: rank 0
sends the state of each step (4.5 MB at full size), and everyone receives all branches' velocities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..inputs.portrait import Portrait
from ..model.denoiser import Denoiser
from ..pipeline.conditions import ClipCalls, Evaluate, Run, prepare_run
from ..pipeline.options import Settings
from ..sampling.guidance import Branch
from .groups import shares, start_of
from .sequence import SequenceDenoiser
from .team import Team

BeginClip = Callable[[Tensor, Tensor], Evaluate]  # concat latent, audio tokens -> the clip's model calls


class Prepare(NamedTuple):
    """Rank 0's first message: the arguments of `prepare_run`."""

    portrait: Portrait
    settings: Settings
    inputs: dict[str, Any]


class Begin(NamedTuple):
    """A clip starts."""

    concat: Tensor
    audio_tokens: Tensor


class CallRequest(NamedTuple):
    """A request for model calls."""

    x: Tensor
    step: int
    branches: tuple[Branch, ...]


class SpreadCalls(ClipCalls):
    """Model calls of a clip by all processes of a team at once, called by each with the same values; the branches of
    its own group together (`batched`) or one after another."""

    def __init__(
        self, team: Team, batched: bool, denoiser: SequenceDenoiser, run: Run, concat: Tensor, audio_tokens: Tensor
    ):
        super().__init__(denoiser, run, concat, audio_tokens)
        self._team, self._batched = team, batched

    def __call__(self, x: Tensor, step: int, branches: Sequence[Branch]) -> Sequence[Tensor]:
        group = self._team.branches
        counts = shares(len(branches), group.size)
        start = start_of(counts, group.rank)
        own = branches[start : start + counts[group.rank]]
        turns = [own] if self._batched else [[branch] for branch in own]
        velocities = [v for turn in turns if turn for v in super(SpreadCalls, self).__call__(x, step, turn)]
        none = x.new_empty(0, *x.shape[1:], dtype=self._run.dtype)
        return group.gather(torch.cat([none, *velocities]), 0, counts).split(1)


class LeadingCalls(SpreadCalls):
    """The same on rank 0, which also sends the request to the others."""

    def __init__(
        self, team: Team, batched: bool, denoiser: SequenceDenoiser, run: Run, concat: Tensor, audio_tokens: Tensor
    ):
        team.send(Begin(concat.cpu(), audio_tokens if audio_tokens is None else audio_tokens.cpu()))
        super().__init__(team, batched, denoiser, run, concat, audio_tokens)

    def __call__(self, x: Tensor, step: int, branches: Sequence[Branch]) -> Sequence[Tensor]:
        self._team.send(CallRequest(x.cpu(), step, tuple(branches)))
        return super().__call__(x, step, branches)


def lead_run(
    team: Team, denoiser: Denoiser, portrait: Portrait, settings: Settings, **inputs: Any
) -> tuple[Run, BeginClip]:
    """`prepare_run` with its arguments on every process of the team. Returns rank 0's run, and a function that starts a
    clip from concat latent and audio tokens; both are used like those of a single process."""
    team.send(
        Prepare(
            replace(
                portrait,
                pixels=portrait.pixels.cpu(),
                bank=portrait.bank and [features.cpu() for features in portrait.bank],
                null_bank=portrait.null_bank and [features.cpu() for features in portrait.null_bank],
            ),
            settings,
            {name: value.cpu() if isinstance(value, Tensor) else value for name, value in inputs.items()},
        )
    )
    spread, run = _spread_run(team, denoiser, portrait, settings, inputs)
    return run, partial(LeadingCalls, team, settings.batched, spread, run)


def follow(team: Team, denoiser: Denoiser) -> None:
    """Runs a further process: answers rank 0's model calls until its film is done."""
    first = team.receive()
    if first is None:
        return
    spread, run = _spread_run(team, denoiser, *first)
    denoiser.modulation.to("meta")  # computed for all steps, as rank 0 does
    device = denoiser.video_positions.device
    evaluate = None
    while (message := team.receive()) is not None:
        match message:
            case Begin(concat, audio_tokens):
                evaluate = SpreadCalls(team, first.settings.batched, spread, run, concat.to(device), audio_tokens)
            case CallRequest(x, step, branches):
                evaluate(x.to(device), step, branches)


def _spread_run(
    team: Team, denoiser: Denoiser, portrait: Portrait, settings: Settings, inputs: dict[str, Any]
) -> tuple[SequenceDenoiser, Run]:
    spread = SequenceDenoiser(denoiser, team.strips)
    return spread, prepare_run(spread, portrait, replace(settings, batched=True), **inputs)  # all branches are one call
