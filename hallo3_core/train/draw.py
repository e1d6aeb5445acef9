"""Everything random in a training step: noise, corrupted motion frames and dropped conditions.

The order is the original's, so that its recorded draws can be replayed one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..clips import latent_frames
from ..vae.autoencoder import LATENT_SCALE, VideoVae, posterior
from .batch import Batch
from .draws import Draws


@dataclass(frozen=True)
class Chances:
    """How often each condition is dropped and how motion frames are corrupted, which makes the model robust to its own
    errors in earlier clips. The defaults are the original's."""

    drop_audio: float = 0.05
    drop_concat: float = 0.05
    drop_reference: float = 0.05
    drop_text: float = 0.1
    drop_pixel: float = 0.1
    motion_sigma: tuple[float, float] = (-3.0, 0.5)  # mean and standard deviation of log sigma


class Drawn(NamedTuple):
    """A step's inputs after every draw: scaled latents ``b 16 t h w``, and the conditions that were not dropped."""

    clip: Tensor
    concat: Tensor
    reference: Tensor
    text: Tensor
    face: Tensor
    audio: Tensor | None
    timesteps: Tensor
    noise: Tensor
    weight: Tensor | None = None  # of each cell in the loss, b h w


@torch.no_grad()
def draw(batch: Batch, vae: VideoVae, draws: Draws, chances: Chances) -> Drawn:
    """Makes all random draws of a step, in the original's order."""
    _, channels, frames, h, w = batch.clip.shape
    latent = (channels // 2, 1, h, w)
    concat_frames = latent_frames(1 + batch.motion.shape[2])
    audio = batch.audio
    if audio is not None:
        audio = left_out(audio, draws.uniform("audio_drop_uniform") < chances.drop_audio)

    reference = LATENT_SCALE * posterior(batch.masked, draws.normal("ref_vae_noise", latent))
    moments = first_frames(batch, vae, draws, chances)
    concat = LATENT_SCALE * posterior(moments, draws.normal("concat_vae_noise", (channels // 2, concat_frames, h, w)))
    clip = LATENT_SCALE * posterior(batch.clip, draws.normal("video_vae_noise", (channels // 2, frames, h, w)))

    concat = left_out(concat, draws.uniform("concat_drop_uniform") < chances.drop_concat)
    reference = left_out(reference, draws.uniform("ref_drop_uniform") < chances.drop_reference)
    text = left_out(batch.text, ~draws.kept("text_keep", 1 - chances.drop_text))
    timesteps = draws.timesteps()
    noise = draws.normal("target_noise", (frames, channels // 2, h, w)).transpose(1, 2)
    empty = concat.new_zeros(*concat.shape[:2], frames - concat_frames, h, w)
    return Drawn(
        clip=clip,
        concat=torch.cat((concat, empty), dim=2),
        reference=reference[:, :, 0],
        text=text,
        face=batch.face,
        audio=audio,
        timesteps=timesteps,
        noise=noise,
        weight=batch.weight,
    )


@torch.no_grad()
def first_frames(batch: Batch, vae: VideoVae, draws: Draws, chances: Chances) -> Tensor:
    """Moments ``b 32 t h w`` of the portrait and the spoiled motion frames, encoded in one call."""
    motion = spoil_motion(batch.motion, draws, chances)
    return vae.unchecked_moments(torch.cat((batch.portrait[:, :, None], motion), dim=2)).float()


def spoil_motion(motion: Tensor, draws: Draws, chances: Chances) -> Tensor:
    """Adds noise to the motion frames ``b 3 2 H W``, then greys out some pixels, the same ones in both frames."""
    sigma = draws.normal("motion_log_sigma", (), *chances.motion_sigma).exp()
    noise = draws.normal("motion_noise", tuple(motion.shape[1:]))
    kept = draws.uniform("pixel_mask_uniform", tuple(motion.shape[-2:])) > chances.drop_pixel
    return (motion + per_sample(sigma, motion) * noise) * kept[:, None, None]


def left_out(x: Tensor, dropped: Tensor) -> Tensor:
    """Zeroes the samples for which `dropped` ``b`` is true."""
    return torch.where(per_sample(dropped, x), 0, x)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshapes for broadcasting: ``b -> b 1 1 ..``."""
    return values.view(-1, *[1] * (like.ndim - 1))
