"""What the denoiser is told while a clip is sampled: made once per clip on the device, shared by all steps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.conds
import torch
from torch import Tensor

from ...hallo3_core.clips import LATENT_FRAMES
from ...hallo3_core.errors import InputError
from ...hallo3_core.inputs.text import null_text
from ...hallo3_core.model.attention import KeysValues
from ...hallo3_core.model.config import Grid, TransformerConfig
from ...hallo3_core.model.denoiser import Conditions, Denoiser, ReferenceBank
from ...hallo3_core.model.modulation import Modulation
from ...hallo3_core.model.positions import Layout
from ...hallo3_core.pipeline.conditions import join_branches
from ...hallo3_core.sampling.guidance import EVERYTHING, Branch


@dataclass(frozen=True, eq=False)
class ClipInputs:
    """What a clip is made of, on the CPU; `bank`, `audio` and so on by whether the condition is the user's.

    text ``1 m w``, bank a layer each ``1 n D``, face tokens ``1 n c``, audio tokens ``1 t n c``, concat the scaled
    conditioning latent ``1 16 t h w``.
    """

    text: Tensor
    bank: dict[bool, ReferenceBank]
    face: Tensor
    audio: dict[bool, Tensor]
    concat: Tensor


@dataclass(eq=False)
class ClipConditions:
    """The conditions of every branch, on a device; batches of branches are put together once, not every step."""

    layout: Layout
    text: dict[bool, Tensor]
    reference: dict[bool, Sequence[KeysValues]] | None = None
    face: Sequence[KeysValues] | None = None
    audio: dict[bool, Sequence[KeysValues]] | None = None
    modulation: Modulation | None = None  # of all steps of the run
    step: int | None = None  # the one that is evaluated; the guider keeps it
    _batches: dict[tuple[Branch, ...], Conditions] = field(default_factory=dict)
    _elsewhere: dict[torch.device, ClipConditions] = field(default_factory=dict)

    def of(self, branches: tuple[Branch, ...], step: int | None = None) -> Evaluation:
        """One sample for each of `branches`, in this order, at this step (None: the one the guider is at)."""
        step = self.step if step is None else step
        if branches not in self._batches:
            self._batches[branches] = join_branches(branches, self.text, self.reference, self.face, self.audio)
        known = self.modulation is not None and step is not None
        modulation = self.modulation.step(step) if known else None
        return Evaluation(self._batches[branches], self.layout, modulation, self, branches, step)

    def on(self, device: torch.device) -> ClipConditions:
        """The same on another device, for the host may evaluate branches on several; copied once a clip."""
        if device == self.layout.video.device:
            return self
        if device not in self._elsewhere:
            own = (self.layout, self.text, self.reference, self.face, self.audio, self.modulation)
            self._elsewhere[device] = ClipConditions(*(_moved(value, device) for value in own))
        return self._elsewhere[device]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one call of the network gets beside latent and timestep. All is there before the call, which may be compiled
    code; the rest tells where it comes from."""

    conditions: Conditions
    layout: Layout
    modulation: Modulation | None  # of this step; None: not known beforehand
    clip: ClipConditions
    branches: tuple[Branch, ...]
    step: int | None

    def to(self, device: torch.device | str) -> Evaluation:
        """On another device: the host asks so when it evaluates branches on several."""
        return self.clip.on(torch.device(device)).of(self.branches, self.step)


def prepare_clip(
    denoiser: Denoiser,
    inputs: ClipInputs,
    branches: Collection[Branch],
    timesteps: Tensor,
    dtype: torch.dtype,
    device: torch.device,
) -> ClipConditions:
    """Everything that the evaluations of a clip share; what none of `branches` needs is not computed. timesteps: those
    of the run's steps, ``n``.

    The denoiser has to be loaded: its LoRAs take part. Where it is loaded in part, its weights do not tell the `device`
    to compute on: that is the patcher's.

    Raises:
        InputError: a clip that the denoiser cannot take.
    """
    texts = {True: inputs.text, False: null_text(inputs.text)}
    return ClipConditions(
        layout=_layout(denoiser, inputs.concat.shape, dtype, device),
        text={b: _embed_text(denoiser, texts[b], device, dtype) for b in {branch.text for branch in branches}},
        reference={
            b: denoiser.reference_keys_values([features.to(device, dtype) for features in inputs.bank[b]])
            for b in {branch.reference for branch in branches}
        },
        face=denoiser.face_keys_values(inputs.face.to(device, dtype)),
        audio={
            b: denoiser.audio_keys_values(inputs.audio[b].to(device, dtype))
            for b in {branch.audio for branch in branches}
        },
        modulation=denoiser.modulate_steps(timesteps.to(device), dtype),
    )


def prepare_text(
    denoiser: Denoiser, text: Tensor, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> ClipConditions:
    """Text alone, as core's samplers give it: the transformer without portrait, face and sound.

    Raises:
        InputError: text or a latent of a shape that the denoiser cannot take.
    """
    layout = _layout(denoiser, shape, dtype, device)
    return ClipConditions(layout, {True: _embed_text(denoiser, text, device, dtype)})


class BranchCond(comfy.conds.CONDRegular):
    """Carries conditions through the host's batching untouched: never copied, compared by identity, joined by name."""

    def __init__(self, clip: ClipConditions, branches: tuple[Branch, ...] = (EVERYTHING,)):
        super().__init__(clip)
        self.branches = branches

    def process_cond(self, batch_size: int, **kwargs) -> BranchCond:
        return BranchCond(self.cond, self.branches * batch_size)

    def can_concat(self, other) -> bool:
        return other.cond is self.cond

    def concat(self, others: Sequence[BranchCond]) -> Evaluation:
        return self.cond.of(sum((other.branches for other in others), start=self.branches))

    def size(self) -> list[int]:
        return [1]


def check_text(text: Tensor, denoiser: Denoiser) -> None:
    """Raises InputError unless `text` is what the denoiser reads."""
    config = denoiser.config
    if tuple(text.shape) != (1, config.text_tokens, config.text_width):
        raise InputError(
            f"the conditioning holds text of shape {list(text.shape)}, the denoiser reads {config.text_tokens} tokens "
            f"of {config.text_width} values. Use T5-XXL: Hallo3's text encoder loader, or CLIPLoader of type cogvideox "
            "with a prompt of at most 225 tokens."
        )


def _embed_text(denoiser: Denoiser, text: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    check_text(text, denoiser)
    return denoiser.embed_text(text.to(device, dtype))


def check_latent(shape: Sequence[int], config: TransformerConfig) -> None:
    """Raises InputError unless a latent of this shape is what the denoiser reads."""
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


def _layout(denoiser: Denoiser, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Layout:
    """Positions for a latent of this shape, ``b 16 t h w``."""
    config = denoiser.config
    check_latent(shape, config)
    frames, height, width = shape[2:]
    return denoiser.layout(Grid(frames, height // config.patch, width // config.patch), dtype, device)


def _moved(value: Any, device: torch.device) -> Any:
    """Every tensor in nested tuples, lists and dictionaries on `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(each, device) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        own = [_moved(each, device) for each in value]
        return own if isinstance(value, list) else type(value)(*own) if hasattr(value, "_fields") else tuple(own)
    return value
