"""A whole film: clip after clip through the sampler and the VAE into a file in the host's temp folder."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import InputImpl
from torch import Tensor

from ...hallo3_core.clip_chain import Clip, clip_chain
from ...hallo3_core.color import hold_colour
from ...hallo3_core.film import FilmWriter
from ...hallo3_core.image import crop_to, to_uint8
from ...hallo3_core.pipeline import last_frames, new_frames
from ..types import Motion
from .sampling import ClipSampler, Report


def write_film(clips: ClipSampler, color_hold: float, report: Report | None = None) -> Path:
    """Sample all clips of the recording into an mp4 with its sound. The file appears when it is whole; Cancel, like any
    error, leaves none. `color_hold` is the strength of `hold_colour`; 0 is off.

    Raises:
        InputError: a strength that is none, an input of another model, or a full disk.
    """
    portrait = clips.portrait
    hold_colour((portrait.pixels + 1) / 2, portrait.pixels, portrait.framing, color_hold)  # a bad strength: told now
    _, _, height, width = portrait.framing.keep

    def make(clip: int, motion: Tensor | None) -> Clip:
        return make_clip(clips, clip, motion, color_hold, report)

    with FilmWriter(temp_film(), height, width, clips.features.recording) as film:
        for frames in clip_chain(clips.features.clips, make):
            film.write(frames)
    return film.path


def make_clip(clips: ClipSampler, clip: int, motion: Tensor | None, color_hold: float, report: Report | None) -> Clip:
    """What Sample Clip, VAEDecode, Color Match and Append Clip make of the same inputs; motion ``2 3 H W`` in 0..1."""
    portrait = clips.portrait
    decoded = decode(clips.vae.vae, clips.sample(clip, motion if motion is None else Motion(motion), report))
    frames = hold_colour(decoded, portrait.pixels, portrait.framing, color_hold)
    new = new_frames(frames, clip, clips.features.frames)
    return Clip(to_uint8(crop_to(new, portrait.framing)), last_frames(frames).clone())  # a view would keep the clip


def decode(vae: Any, latent: Tensor) -> Tensor:
    """An unscaled latent ``1 16 t h w`` by the host's VAE -> ``n 3 H W`` in 0..1, float32 on the CPU."""
    return vae.decode(latent)[0].movedim(-1, 1).float().clamp(0, 1).cpu()


def temp_film() -> Path:
    """A name for a film in the host's temp folder, never the same twice: results of earlier runs may be in use."""
    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    return Path(folder) / f"hallo3_{secrets.token_hex(8)}.mp4"


def video_of(path: Path) -> Any:
    """A film file as the host's VIDEO."""
    return InputImpl.VideoFromFile(str(path))
