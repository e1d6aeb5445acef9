"""Samples a clip from the nodes' inputs: the core's pipeline, in the same order, on the host."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...hallo3_core.clips import MOTION_FRAMES, Timeline
from ...hallo3_core.errors import InputError
from ...hallo3_core.inputs.audio import AudioFeatures
from ...hallo3_core.inputs.face import Face
from ...hallo3_core.inputs.portrait import Portrait
from ...hallo3_core.pipeline.causes import likely_cause
from ...hallo3_core.pipeline.clip import Conductor
from ...hallo3_core.pipeline.conditions import WithNull
from ...hallo3_core.pipeline.options import Settings
from ...hallo3_core.sampling.finite import NotFinite
from ...hallo3_core.sampling.noise import SeededNoise, check_seed
from ...hallo3_core.sampling.schedule import make_schedule
from ..types import Motion
from .conditions import ClipInputs, FilmCache, check_text
from .guider import Guider
from .model import projectors_of, require_model
from .patches import check_conditioning, check_model
from .projectors import Projectors
from .solver import ExactSolver, sigmas_of
from .vae import CoreVae

log = logging.getLogger(__name__)
Report = Callable[[int, Tensor, Tensor, int], None]  # step, x0, x, steps


@dataclass
class Saved:
    """Model calls that EasyCache made unnecessary, over all clips."""

    calls: int = 0


@dataclass(frozen=True, eq=False)
class ClipSampler:
    """Everything that all clips of a film share, checked before any long work; see `prepare_sampler`."""

    patcher: Any
    projectors: Projectors
    vae: CoreVae
    text: Tensor
    features: AudioFeatures
    portrait: Portrait
    face_tokens: Tensor | None
    null_audio: Tensor | None
    settings: Settings
    seed: int
    film: FilmCache | None = field(default=None, kw_only=True)  # cache of the conditions that several clips share
    saved: Saved = field(default_factory=Saved, kw_only=True)

    @property
    def count(self) -> int:
        """Number of clips in the film."""
        return self.timeline.clips

    @property
    def timeline(self) -> Timeline:
        return self.projectors.timeline(self.features)

    def inputs(self, clip: int, motion: Motion | None) -> ClipInputs:
        """Prepares the inputs of clip number `clip`; `motion` is the end of the preceding clip, None at the start.

        Raises:
            InputError: no such clip, or motion frames of another film.
        """
        check_order(clip, motion)
        audio = self.projectors.audio_tokens(self.features, clip)
        timeline = self.timeline
        frames = None if motion is None else motion_pixels(motion, self.portrait, timeline.motion_frames)
        concat = Conductor(timeline, self.portrait).concat_latent(self.vae, frames, SeededNoise(self.seed, clip))
        reads_portrait = require_model(self.patcher).diffusion_model.config.reads.reference
        return ClipInputs(
            text=self.text,
            bank=WithNull(self.portrait.bank, self.portrait.null_bank) if reads_portrait else WithNull(None, None),
            face=self.face_tokens,
            audio=WithNull(audio, self.null_audio),
            concat=concat.cpu(),
        )

    def guider(self, clip: int, motion: Motion | None) -> Guider:
        """Makes the guider that runs the steps of a clip; raises like `inputs`."""
        inputs, settings = self.inputs(clip, motion), self.settings
        return Guider(self.patcher, inputs, settings.guidance, settings.batched, self.film)

    def sample(self, clip: int, motion: Motion | None, report: Report | None = None) -> Tensor:
        """Samples the clip's latent ``1 16 t h w``, unscaled, on the CPU.

        Raises:
            InputError: as `inputs`.
        """
        guider = self.guider(clip, motion)
        schedule, noise = make_schedule(self.settings.steps), SeededNoise(self.seed, clip)
        solver = ExactSolver(schedule, self.settings.sampler, noise)
        start = noise.initial(guider.inputs.concat.shape)
        try:
            latent = guider.sample(
                start,
                torch.zeros_like(start),
                solver,
                sigmas_of(schedule),
                callback=report,
                disable_pbar=True,
                seed=self.seed,
            )
        except NotFinite as error:
            dtype, with_lora = self.patcher.model.compute_dtype, bool(self.patcher.patches)
            cause = likely_cause(dtype, self.settings.guidance, with_lora)
            raise InputError(f"clip {clip + 1} of {self.count}, {error} {cause}") from error
        self.saved.calls += guider.saved
        return latent.cpu()


def prepare_sampler(
    model: Any,
    conditioning: list,
    vae: Any,
    audio: AudioFeatures,
    face: Face,
    reference: Portrait,
    settings: Settings,
    seed: int,
) -> ClipSampler:
    """Checks everything that can be checked before sampling, and projects what all clips share.

    Raises:
        InputError: an invalid setting, or an input made for another model.
    """
    branches = settings.branches()
    check_seed(seed)
    denoiser = require_model(model).diffusion_model
    check_model(model, settings.guidance, settings.steps)
    text = text_of(conditioning)
    check_text(text, denoiser)
    layers, reads_portrait = denoiser.config.layers, denoiser.config.reads.reference
    if reads_portrait and (len(reference.bank) != layers or reference.bank[0].shape[-1] != denoiser.config.hidden):
        raise InputError(
            f"the reference has {len(reference.bank)} layers of {reference.bank[0].shape[-1]}, the denoiser "
            f"{layers} of {denoiser.config.hidden}: load both networks from the same release"
        )
    if reads_portrait and reference.null_bank is None and any(not branch.reference for branch in branches):
        raise InputError("the reference lacks its null, which a reference_cfg other than 1 needs: set it to 1")
    projectors = projectors_of(model)
    return ClipSampler(
        patcher=model,
        projectors=projectors,
        vae=CoreVae(vae),
        text=text,
        features=audio,
        portrait=reference,
        face_tokens=projectors.face_tokens(face),
        null_audio=projectors.null_audio_tokens(audio),
        settings=settings,
        seed=seed,
    )


def text_of(conditioning: list) -> Tensor:
    """Returns the text ``1 m w`` of a CONDITIONING.

    Raises:
        InputError: combined conditionings, or a text limited to a time or area: the model supports neither.
    """
    if len(conditioning) != 1:
        raise InputError(
            f"the conditioning has {len(conditioning)} parts, expected 1: connect CLIPTextEncode directly, without "
            "combining or scheduling prompts"
        )
    (text, extra), *_ = conditioning
    check_conditioning(extra)
    return text.float().cpu()


def check_order(clip: int, motion: Motion | None) -> None:
    """Warns if a later clip begins from the portrait.

    Raises:
        InputError: motion frames that are known to be of another clip than the one before.
    """
    if motion is None:
        if clip > 0:
            log.warning(
                "clip %d has no motion: it begins from the portrait, and the video jumps there. Connect the motion of "
                "clip %d, from Hallo3 Motion Frames",
                clip,
                clip - 1,
            )
    elif motion.clip is not None and motion.clip != clip - 1:
        before = f"the motion of clip {clip - 1}" if clip else "no motion, since clip 0 begins from the portrait"
        raise InputError(f"motion: it is the end of clip {motion.clip}, but clip {clip} needs {before}.")


def motion_pixels(motion: Motion, portrait: Portrait, expected_count: int = MOTION_FRAMES) -> Tensor:
    """Returns motion frames ``n 3 H W`` in 0..1, n as the model takes, by default 2. A single frame is repeated.

    Raises:
        InputError: frames whose size is not the film's, or a wrong number of frames.
    """
    count, _, height, width = motion.frames.shape
    expected = tuple(portrait.pixels.shape[-2:])
    if (height, width) != expected:
        raise InputError(
            f"the motion frames are {width}x{height}, the video is {expected[1]}x{expected[0]}: take them from a clip "
            "of this video, before it is scaled or cropped"
        )
    if count not in (1, expected_count):
        raise InputError(f"{count} motion frames: the model takes {' or '.join(map(str, sorted({1, expected_count})))}")
    return motion.frames.expand(expected_count, -1, -1, -1)


def cost(settings: Settings, clips: int = 1, saved: int = 0) -> str:
    """Describes the cost of sampling this many clips to the user; `saved` calls were made unnecessary by EasyCache."""
    counts = [len(settings.guidance.weights(step, settings.steps)) for step in range(settings.steps)]
    each = f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    noun = "model call" if each == "1" else "model calls"
    total = f"{clips * sum(counts) - saved} in all"
    return f"{each} {noun} a step, {total}" + (f", {saved} saved by EasyCache" if saved else "")
