"""From prepared inputs to a film: the one place that knows the order of things.

    portrait --VAE--> reference network --> bank ----------.
    portrait + motion frames --VAE--> concat latent ------- denoiser x steps --> latent --VAE--> frames, motion frames
    face --> face tokens, sound --> audio tokens, text ----'

Source: section 6 of the released sampler's description. Pixels are -1..1 towards the networks and 0..1 towards the
user, latents ``b 16 t h w``; inside this module they are scaled (0.7 x the VAE's).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from .clips import LATENT_FRAMES, MOTION_FRAMES, clip_count, clip_span
from .config import Grid
from .fingerprint import SAME_FILM
from .guidance import Branch, Guidance, guide
from .image import Framing, frame_pixels, pixel_dropout
from .model.attention import Folded, KeysValues
from .model.denoiser import Conditions, Denoiser, ReferenceBank
from .model.modulation import Modulation
from .model.positions import Layout
from .model.reference_net import ReferenceNet
from .noise import ClipNoise
from .sampler import SDE_DPMPP_2M, OnStep, check_sampler, clean_from_velocity, sample
from .schedule import Schedule, make_schedule
from .step_cache import StepCache, check_threshold
from .text import null_text
from .vae import LATENT_SCALE, VideoVae


@dataclass(frozen=True)
class Settings:
    """What a user chooses for a run."""

    steps: int = 50
    guidance: Guidance = field(default_factory=Guidance)
    sampler: str = SDE_DPMPP_2M
    # The evaluations of a step together, or one after another in half the memory.
    batched: bool = field(default=True, metadata=SAME_FILM)
    cache: float = 0.0  # how far x0 may have moved before it is computed again (`step_cache.py`); 0: always

    def branches(self) -> set[Branch]:
        """All evaluations that the run needs; the place to ask first, since it checks every setting.

        Raises:
            InputError: a setting that cannot be.
        """
        check_sampler(self.sampler)
        check_threshold(self.cache)
        return self.guidance.branches(len(make_schedule(self.steps)))


@dataclass(frozen=True)
class Portrait:
    """What a portrait gives: its framed pixels ``1 3 H W`` in -1..1, the reference bank, and that of the null (a zero
    latent), which only a reference scale other than 1 needs."""

    pixels: Tensor
    framing: Framing
    bank: ReferenceBank
    null_bank: ReferenceBank | None = None


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


def prepare_portrait(
    image: Tensor,
    mask: Tensor,
    framing: Framing,
    vae: VideoVae,
    reference_net: ReferenceNet,
    *,
    with_null: bool = False,
    noise: Tensor | None = None,
) -> Portrait:
    """Frame the image ``1 3 h w`` (0..1) and run the reference network on what the mask ``h w`` leaves of it.

    `noise` replays a recorded draw of the VAE's posterior; without it the mean is taken.
    """
    latent = encode_masked(image, mask, framing, vae, noise)
    return Portrait(
        pixels=framed(image, framing),
        framing=framing,
        bank=reference_net(latent),
        null_bank=reference_net(torch.zeros_like(latent)) if with_null else None,
    )


def encode_masked(image: Tensor, mask: Tensor, framing: Framing, vae: VideoVae, noise: Tensor | None = None) -> Tensor:
    """The masked portrait's latent ``1 16 h w``: masked at its own size, then framed."""
    return encode(vae, framed(image * mask, framing)[:, :, None], noise)[:, :, 0]


def framed(image: Tensor, framing: Framing) -> Tensor:
    """``1 3 h w`` in 0..1 -> ``1 3 H W`` in -1..1"""
    return frame_pixels(image, framing) * 2 - 1


def encode(vae: VideoVae, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
    """``b 3 t H W`` in -1..1 -> scaled latent ``b 16 t' h w``"""
    return vae.encode(pixels, noise) * LATENT_SCALE


def decode(vae: VideoVae, latent: Tensor) -> Iterator[Tensor]:
    """Scaled latent ``1 16 t h w`` -> frames ``n 3 H W`` in 0..1, float32, a chunk at a time."""
    for chunk in vae.decode_chunks(unscaled(latent)):
        yield as_frames(chunk)


def unscaled(latent: Tensor) -> Tensor:
    """The way back from the networks' latent to the VAE's."""
    return latent * (1 / LATENT_SCALE)


def as_frames(pixels: Tensor) -> Tensor:
    """The VAE's pixels ``1 3 n H W``, about -1..1 -> frames ``n 3 H W`` in 0..1, float32."""
    return ((pixels[0].float() + 1) / 2).clamp(0, 1).transpose(0, 1)


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
    h, w = portrait.pixels.shape[-2:]
    size = 8 * denoiser.config.patch
    return Run(
        settings=settings,
        schedule=schedule,
        layout=denoiser.layout(Grid(LATENT_FRAMES, h // size, w // size), dtype),
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


def concat_latent(
    vae: VideoVae, portrait: Tensor, motion: Tensor | None, noise: ClipNoise, frames: int = LATENT_FRAMES
) -> Tensor:
    """The conditioning latent ``1 16 t h w``: portrait and motion frames in its first latent frame, zeros behind.

    motion ``2 3 H W`` in 0..1, the end of the clip before; None at the start of a film: the portrait itself.
    """
    if motion is None:
        motion = portrait.repeat(MOTION_FRAMES, 1, 1, 1)
    else:
        motion = motion.to(portrait) * 2 - 1
    uniform = noise.pixel_uniform(*motion.shape[-2:]).to(motion.device)
    pixels = torch.cat((portrait, pixel_dropout(motion, uniform))).transpose(0, 1)[None]
    h, w = (side // 8 for side in portrait.shape[-2:])
    latent = encode(vae, pixels, noise.encode_normal((1, vae.latent_channels, 1, h, w)))
    return torch.cat((latent, latent.new_zeros(*latent.shape[:2], frames - latent.shape[2], h, w)), dim=2)


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
        self._stacked: dict[tuple[Branch, ...], Conditions] = {}  # of the combinations that this clip evaluates

    def __call__(self, x: Tensor, step: int, branches: Sequence[Branch]) -> Sequence[Tensor]:
        run = self._run
        batch = x.to(run.dtype).expand(len(branches), -1, -1, -1, -1)
        given = self._conditions(tuple(branches))
        return self._denoiser(batch, self._concat, given, run.modulation.step(step), run.layout).split(1)

    def _conditions(self, branches: tuple[Branch, ...]) -> Conditions:
        if branches not in self._stacked:
            run = self._run
            self._stacked[branches] = join_branches(branches, run.text, run.reference, run.face, self._audio)
        return self._stacked[branches]


def sample_clip(
    denoiser: Denoiser,
    run: Run,
    concat: Tensor,
    audio_tokens: Tensor,
    noise: ClipNoise,
    on_step: OnStep | None = None,
) -> Tensor:
    """One clip's latent ``1 16 t h w``, scaled, float32; audio tokens ``1 t n c``."""
    device = concat.device
    evaluate = run.evaluations(denoiser, run, concat, audio_tokens)

    def predict_clean(x: Tensor, step: int) -> Tensor:
        weights = run.settings.guidance.weights(step, len(run.schedule))
        velocity = guide(partial(evaluate, x, step), weights, run.settings.batched)
        return clean_from_velocity(x, velocity, run.schedule.wrapped[step])

    if run.settings.cache:
        steps, guidance = len(run.schedule), run.settings.guidance
        predict_clean = StepCache(
            predict_clean,
            run.schedule,
            run.settings.cache,
            rule=lambda step: tuple(guidance.weights(step, steps).items()),
        )
    return sample(
        noise.initial(concat.shape).to(device),
        run.schedule,
        predict_clean,
        run.settings.sampler,
        draw_noise=lambda step: noise.step(step, concat.shape).to(device),
        on_step=on_step,
    )


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


def last_frames(frames: Tensor, count: int = MOTION_FRAMES) -> Tensor:
    """Motion frames for the next clip: the end of this one, ``n 3 H W`` in 0..1."""
    return frames[-count:]


def film_clip(
    denoiser: Denoiser,
    vae: VideoVae,
    run: Run,
    portrait: Portrait,
    motion: Tensor | None,
    audio_tokens: Tensor,
    noise: ClipNoise,
    on_step: OnStep | None = None,
) -> Tensor:
    """A clip, sampled and decoded: all its frames ``n 3 H W`` in 0..1, the motion frames at its start too.

    motion ``2 3 H W``, the end of the clip before; None at the start of a film.
    """
    concat = concat_latent(vae, portrait.pixels, motion, noise, run.layout.grid.frames)
    return torch.cat(list(decode(vae, sample_clip(denoiser, run, concat, audio_tokens, noise, on_step))))


def film_clips(
    denoiser: Denoiser,
    vae: VideoVae,
    run: Run,
    portrait: Portrait,
    frames: int,
    audio_tokens: Callable[[int], Tensor],
    noise: Callable[[int], ClipNoise],
    on_step: Callable[[int, int, Tensor], None] | None = None,
) -> Iterator[Tensor]:
    """The new frames of clip after clip, ``n 3 H W`` in 0..1, together `frames`: memory does not grow with the film.

    audio_tokens and noise are asked for each clip by its number; on_step is told clip, step and x0.
    """
    motion = None
    for clip in range(clip_count(frames)):
        report = on_step and (lambda step, clean, clip=clip: on_step(clip, step, clean))
        decoded = film_clip(denoiser, vae, run, portrait, motion, audio_tokens(clip), noise(clip), report)
        motion = last_frames(decoded)
        yield new_frames(decoded, clip, frames)


def new_frames(decoded: Tensor, clip: int, frames: int) -> Tensor:
    """What clip number `clip` adds to a film of `frames` frames: ``49 3 H W -> n 3 H W``"""
    start, stop = clip_span(clip, frames)
    return decoded[MOTION_FRAMES : MOTION_FRAMES + stop - start]
