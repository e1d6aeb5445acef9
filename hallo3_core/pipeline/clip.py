"""From prepared inputs to a film: the order of the stages, and the conductor that leads from clip to clip.

    portrait --VAE--> reference network --> bank ----------.
    portrait + motion frames --VAE--> concat latent ------- denoiser x steps --> latent --VAE--> frames, motion frames
    face --> face tokens, sound --> audio tokens, text ----'

Source: section 6 of the released sampler's description. Pixels are -1..1 for the networks and 0..1 for the user.
Latents are ``b 16 t h w``, and scaled (0.7 x the VAE's) throughout this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..clips import LATENT_FRAMES, MOTION_FRAMES, Timeline, latent_frames
from ..film.clip_chain import Clip
from ..film.color import check_strength, hold_colour
from ..film.seam import check_fade, fade_seam
from ..inputs.image import crop_to, pixel_dropout, to_uint8
from ..inputs.portrait import Portrait
from ..sampling.guidance import guide
from ..sampling.noise import ClipNoise
from ..sampling.sampler import OnStep, clean_from_velocity, sample
from ..sampling.schedule import make_schedule
from ..sampling.step_cache import StepCache
from ..vae.autoencoder import PIXELS, VideoVae
from ..vae.latents import encode
from .conditions import Evaluate
from .options import Settings


def concat_latent(
    vae: VideoVae,
    portrait: Tensor,
    motion: Tensor | None,
    noise: ClipNoise,
    frames: int = LATENT_FRAMES,
    motion_frames: int = MOTION_FRAMES,
) -> Tensor:
    """The conditioning latent ``1 16 t h w``: portrait and motion frames in its first latent frame (its first two with
    4 motion frames), then zeros.

    motion: ``2 3 H W`` in 0..1, the end of the previous clip. None at the start of a film: the portrait repeated
    `motion_frames` times.
    """
    if motion is None:
        motion = portrait.repeat(motion_frames, 1, 1, 1)
    else:
        motion = (motion.float() * 2 - 1).to(portrait)  # rounded last: a bias would accumulate over the clips
    uniform = noise.pixel_uniform(*motion.shape[-2:]).to(motion.device)
    pixels = torch.cat((portrait, pixel_dropout(motion, uniform))).transpose(0, 1)[None]
    h, w = (side // PIXELS for side in portrait.shape[-2:])
    latent = encode(vae, pixels, noise.encode_normal((1, vae.latent_channels, latent_frames(pixels.shape[2]), h, w)))
    return torch.cat((latent, latent.new_zeros(*latent.shape[:2], frames - latent.shape[2], h, w)), dim=2)


def sample_clip(
    evaluate: Evaluate, settings: Settings, concat: Tensor, noise: ClipNoise, on_step: OnStep | None = None
) -> Tensor:
    """Samples one clip's scaled latent, float32, with the shape and device of its concat latent ``1 16 t h w``.

    evaluate: makes the clip's model calls (`ClipCalls`, or its counterpart for several processes).
    """
    device, schedule = concat.device, make_schedule(settings.steps)

    def predict_clean(x: Tensor, step: int) -> Tensor:
        velocity = guide(partial(evaluate, x, step), settings.weights(step), settings.batched)
        return clean_from_velocity(x, velocity, schedule.wrapped[step])

    if settings.cache:
        predict_clean = StepCache(
            predict_clean, schedule, settings.cache, rule=lambda step: tuple(settings.weights(step).items())
        )
    return sample(
        noise.initial(concat.shape).to(device),
        schedule,
        predict_clean,
        settings.sampler,
        draw_noise=lambda step: noise.step(step, concat.shape).to(device),
        on_step=on_step,
    )


@dataclass(frozen=True, eq=False)
class Conductor:
    """Leads a film from clip to clip: what a clip begins with, and what of it goes into the film.

    portrait: its pixels and framing. color_hold: the strength of `hold_colour`. seam_fade: the frames of `fade_seam`.

    Raises:
        InputError: a strength or a number of frames that is not supported.
    """

    timeline: Timeline
    portrait: Portrait
    color_hold: float = 0.0
    seam_fade: int = 0

    def __post_init__(self):
        check_strength(self.color_hold)
        check_fade(self.seam_fade)

    def concat_latent(
        self, vae: VideoVae, motion: Tensor | None, noise: ClipNoise, frames: int = LATENT_FRAMES
    ) -> Tensor:
        """What a clip begins with, ``1 16 t h w``: the portrait, and the end of the previous clip if there is one."""
        return concat_latent(vae, self.portrait.pixels, motion, noise, frames, self.timeline.motion_frames)

    def finish(self, decoded: Tensor, clip: int, before: Tensor | None = None) -> Clip:
        """The new frames of decoded clip number `clip`, ``49 3 H W`` in 0..1, and its motion frames, on the CPU.

        before: the motion frames ``m 3 H W`` that the clip began with, from which it fades in.
        """
        timeline, framing = self.timeline, self.portrait.framing
        decoded = hold_colour(decoded, self.portrait.pixels, framing, self.color_hold)
        new = timeline.new_frames(decoded, clip)
        if before is not None:
            new = fade_seam(new, before[-1], decoded[timeline.motion_frames - 1], self.seam_fade)
        motion = timeline.last_frames(decoded).to("cpu", copy=True)  # a view would keep the whole clip
        return Clip(to_uint8(crop_to(new, framing).cpu()), motion)
