"""Previews of training: the true clip on the left, the sampled one on the right, and the sound of both."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..clips import FPS, FRAMES_PER_CLIP
from ..errors import InputError
from ..film.writer import FilmWriter
from ..inputs.image import to_uint8
from ..inputs.recording import Recording, check_recording
from ..model.hallo3 import Hallo3
from ..model.trunk import LayoutOf
from ..pipeline.clip import sample_clip
from ..pipeline.options import Settings
from ..sampling.guidance import Branch
from ..sampling.noise import SeededNoise
from ..sampling.schedule import make_schedule
from ..vae.autoencoder import VideoVae
from ..vae.latents import decode_whole
from .batch import Batch
from .cache import FilmEntry
from .draw import Chances, Drawn, draw
from .draws import Keyed
from .networks import read_by

NO_DROPS = Chances(drop_audio=0, drop_concat=0, drop_reference=0, drop_text=0)
log = logging.getLogger(__name__)


@torch.no_grad()
def preview(
    networks: Hallo3,
    vae: VideoVae,
    batch: Batch,
    settings: Settings,
    seed: int,
    *,
    dtype: torch.dtype,
    layout: LayoutOf,
) -> Tensor:
    """Frames ``49 3 H (2 W)`` in 0..1 for a batch of one: the clip itself, and one sampled from its first frames, audio
    and text. The noise is the same every time."""
    device = batch.clip.device
    inputs = draw(batch, vae, Keyed(seed, 0, 1, device=device), NO_DROPS)
    timesteps, concat = make_schedule(settings.steps).timesteps, inputs.concat.to(dtype)
    given, null = (
        networks.conditions(**read_by(networks, each, dtype), layout=layout)
        for each in (inputs, without_text_and_sound(inputs))
    )

    def evaluate(x: Tensor, step: int, branches: Sequence[Branch]) -> list[Tensor]:
        at = torch.full((1,), timesteps[step], device=device)
        conditions = (given if branch.text else null for branch in branches)
        return [networks.velocity(x.to(dtype), concat, at, each, layout).float() for each in conditions]

    latent = sample_clip(evaluate, settings, concat, SeededNoise(seed, 0))
    return torch.cat([decode_whole(vae, each) for each in (inputs.clip, latent)], dim=-1)


def without_text_and_sound(inputs: Drawn) -> Drawn:
    """The unconditional inputs for guidance."""
    audio = None if inputs.audio is None else torch.zeros_like(inputs.audio)
    return inputs._replace(text=torch.zeros_like(inputs.text), audio=audio)


def sound_of(entry: FilmEntry, clip: int) -> Recording | None:
    """The sound of a film's clip of this number; None if it has none, or none that can be written."""
    if entry.sound is None:
        return None
    whole = entry.sound()
    start = int(entry.starts[clip])
    first, last = (round(frame * whole.rate / FPS) for frame in (start, start + FRAMES_PER_CLIP))
    try:
        return check_recording(Recording(whole.waveform[:, first:last], whole.rate, whole.name, whole.speakers))
    except InputError as error:
        log.info("the preview has no sound: %s", error)
        return None


def write_preview(path: Path, frames: Tensor, sound: Recording | None = None) -> None:
    """Writes the frames as a film, with its sound.

    Raises:
        InputError: the film cannot be written, or PyAV is not installed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FilmWriter(path, *frames.shape[-2:], sound) as film:
        film.write(to_uint8(frames.cpu()))
