"""Conditions of a film and of a clip for the host's samplers: on the device, shared by all steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import comfy.conds
import torch
from torch import Tensor

from ...hallo3_core.clips import LATENT_FRAMES
from ...hallo3_core.errors import InputError
from ...hallo3_core.model.config import Grid, TransformerConfig
from ...hallo3_core.model.denoiser import Conditions, Denoiser, ReferenceBank
from ...hallo3_core.model.modulation import Modulation
from ...hallo3_core.model.positions import Layout
from ...hallo3_core.pipeline.conditions import (
    ClipConditions,
    FilmConditions,
    FilmInputs,
    WithNull,
    clip_conditions,
    film_conditions,
)
from ...hallo3_core.sampling.guidance import EVERYTHING, Branch
from .attention import RunAttention


@dataclass(frozen=True, eq=False)
class ClipInputs:
    """Inputs of one clip, on the CPU.

    text ``1 m w``, bank ``1 n D`` per layer, face tokens ``1 n c``, audio tokens ``1 t n c``, concat the scaled
    conditioning latent ``1 16 t h w``. None for inputs that the denoiser does not read.
    """

    text: Tensor
    bank: WithNull[ReferenceBank | None]
    face: Tensor | None
    audio: WithNull[Tensor | None]
    concat: Tensor


class FilmCache:
    """A film's conditions, computed with its first clip and kept in CPU memory between clips."""

    def __init__(self):
        self._key: tuple | None = None
        self._kept: FilmConditions | None = None

    def get(self, key: tuple, device: torch.device, make: Callable[[], FilmConditions]) -> FilmConditions:
        """Returns the conditions for `key` on the device, and recomputes them with `make` if the key has changed."""
        if key == self._key:
            return moved(self._kept, device)
        made = make()
        self._key, self._kept = key, moved(made, torch.device("cpu"))
        return made


@dataclass(eq=False)
class HostClip:
    """A clip's conditions for the host's samplers. Batches of branches are joined once, not at every step."""

    conditions: ClipConditions
    attention: RunAttention
    step: int | None = None  # the current one, set by the guider
    _batches: dict[tuple[Branch, ...], Conditions] = field(default_factory=dict)
    _elsewhere: dict[torch.device, HostClip] = field(default_factory=dict)

    def of(self, branches: tuple[Branch, ...], step: int | None = None) -> ModelCall:
        """Model inputs with one sample per branch, in this order, at this step (None: the guider's current step)."""
        step = self.step if step is None else step
        if branches not in self._batches:
            self._batches[branches] = self.conditions.join(branches)
        film = self.conditions.film
        known = film.modulation is not None and step is not None
        modulation = film.modulation.step(step) if known else None
        return ModelCall(self._batches[branches], film.layout, modulation, self, branches, step)

    def on(self, device: torch.device) -> HostClip:
        """The same clip on another device, copied once per clip: the host may compute branches on several devices."""
        if device == self.conditions.film.layout.video.device:
            return self
        if device not in self._elsewhere:
            self._elsewhere[device] = HostClip(moved(self.conditions, device), self.attention)
        return self._elsewhere[device]


@dataclass(frozen=True, eq=False)
class ModelCall:
    """Inputs of one model call besides latent and timestep.

    Conditions, layout and modulation are computed before the call, which may run compiled code. The other fields record
    where they come from.
    """

    conditions: Conditions
    layout: Layout
    modulation: Modulation | None  # of this step; None if it cannot be computed in advance
    clip: HostClip
    branches: tuple[Branch, ...]
    step: int | None

    def to(self, device: torch.device | str) -> ModelCall:
        """The same call on another device. The host uses this when it computes branches on several devices."""
        return self.clip.on(torch.device(device)).of(self.branches, self.step)


def prepare_film(
    denoiser: Denoiser,
    inputs: ClipInputs,
    branches: Collection[Branch],
    timesteps: Tensor,
    dtype: torch.dtype,
    device: torch.device,
) -> FilmConditions:
    """Prepares what all clips of a film share, from the inputs of any one clip. timesteps: of the run's steps, ``n``.

    The denoiser must be loaded, so that its LoRAs are applied. `device` is the patcher's: a partially loaded denoiser
    has weights on other devices too.

    Raises:
        InputError: text or a latent of a shape that the denoiser cannot take.
    """
    check_text(inputs.text, denoiser)
    return film_conditions(
        denoiser,
        FilmInputs(inputs.text, inputs.bank, inputs.face, inputs.audio.null),
        branches,
        timesteps,
        grid=_grid(denoiser, inputs.concat.shape),
        dtype=dtype,
        device=device,
    )


def prepare_clip(denoiser: Denoiser, inputs: ClipInputs, film: FilmConditions) -> HostClip:
    """Prepares what all steps of a clip share."""
    return HostClip(clip_conditions(denoiser, film, inputs.audio.given), RunAttention(denoiser.config.layers))


def prepare_text(
    denoiser: Denoiser, text: Tensor, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> HostClip:
    """Prepares text-only conditions for ComfyUI's own samplers: no portrait, face or audio.

    Raises:
        InputError: text or a latent of a shape that the denoiser cannot take.
    """
    check_text(text, denoiser)
    layout = denoiser.layout(_grid(denoiser, shape), dtype, device)
    texts = WithNull(denoiser.embed_text(text.to(device, dtype)), None)
    return HostClip(ClipConditions(FilmConditions(layout, texts)), RunAttention(denoiser.config.layers))


class BranchCond(comfy.conds.CONDRegular):
    """Carries conditions through the host's batching: never copied, compared by identity, joined by branch."""

    def __init__(self, clip: HostClip, branches: tuple[Branch, ...] = (EVERYTHING,)):
        super().__init__(clip)
        self.branches = branches

    def process_cond(self, batch_size: int, **kwargs) -> BranchCond:
        return BranchCond(self.cond, self.branches * batch_size)

    def can_concat(self, other) -> bool:
        return other.cond is self.cond

    def concat(self, others: Sequence[BranchCond]) -> ModelCall:
        return self.cond.of(sum((other.branches for other in others), start=self.branches))

    def size(self) -> list[int]:
        return [1]


def check_text(text: Tensor, denoiser: Denoiser) -> None:
    """Raises InputError unless `text` has the shape that the denoiser reads."""
    tokens, width = denoiser.config.text_tokens, denoiser.config.text_width
    if tuple(text.shape) == (1, tokens, width):
        return
    found = f"the conditioning holds text of shape {list(text.shape)}, the denoiser reads {tokens} tokens of {width}"
    if text.ndim != 3 or text.shape[2] != width:
        advice = "Use T5-XXL: Hallo3's text encoder loader, or CLIPLoader of type cogvideox."
    elif text.shape[0] != 1:
        advice = f"It is a batch of {text.shape[0]} prompts: give one."
    elif text.shape[1] % tokens == 0:
        advice = (
            f"ConditioningConcat joined {text.shape[1] // tokens} prompts: write them as one in one CLIPTextEncode."
        )
    else:
        advice = f"Use CLIPLoader's type cogvideox, with a prompt of at most {tokens - 1} tokens."
    raise InputError(f"{found} values. {advice}")


def check_latent(shape: Sequence[int], config: TransformerConfig) -> None:
    """Raises InputError unless the denoiser reads latents of this shape."""
    if len(shape) != 5 or shape[1] != config.channels:
        raise InputError(
            f"the latent has shape {list(shape)}, the denoiser takes [batch, {config.channels}, {LATENT_FRAMES}, "
            "height / 8, width / 8]. Use EmptyHunyuanLatentVideo with length 49."
        )
    frames, height, width = shape[2:]
    if not 1 <= frames <= config.grid.frames or height % config.patch or width % config.patch:
        raise InputError(
            f"the latent is {frames} frames of {width}x{height}: expected 1 to {config.grid.frames} frames and even "
            "sides, that is a picture whose sides are multiples of 16."
        )


def _grid(denoiser: Denoiser, shape: Sequence[int]) -> Grid:
    """The token grid of a latent of this shape, ``b 16 t h w``."""
    config = denoiser.config
    check_latent(shape, config)
    frames, height, width = shape[2:]
    return Grid(frames, height // config.patch, width // config.patch)


def moved(value: Any, device: torch.device) -> Any:
    """Moves every tensor in nested dataclasses, tuples and lists to `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(moved(each, device) for each in value))
    if isinstance(value, (tuple, list)):
        return type(value)(moved(each, device) for each in value)
    if is_dataclass(value):
        return type(value)(**{each.name: moved(getattr(value, each.name), device) for each in fields(value)})
    return value
