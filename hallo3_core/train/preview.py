"""Previews of training: the true clip on the left, the sampled one on the right, and the sound of both."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from ..clips import FPS, FRAMES_PER_CLIP
from ..errors import InputError
from ..film.writer import FilmWriter
from ..inputs.image import to_uint8
from ..inputs.recording import Recording, check_recording
from ..model.hallo3 import Hallo3
from ..sampling.noise import SeededNoise
from ..sampling.sampler import clean_from_velocity, sample
from ..sampling.schedule import make_schedule
from ..vae.autoencoder import VideoVae
from ..vae.latents import decode_whole
from .batch import Batch
from .cache import Entry
from .draw import Chances, Drawn, draw
from .draws import Keyed
from .networks import predict

SCALE = 3.5  # guidance scale, as in the original's sampling
NO_DROPS = Chances(drop_audio=0, drop_concat=0, drop_reference=0, drop_text=0)
log = logging.getLogger(__name__)


@torch.no_grad()
def preview(networks: Hallo3, vae: VideoVae, batch: Batch, steps: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Frames ``49 3 H (2 W)`` in 0..1 for a batch of one: the clip itself, and one sampled from its first
    frames, audio and text. The noise is the same every time."""
    device = batch.clip.device
    inputs = draw(batch, vae, Keyed(seed, 0, 1, device=device), NO_DROPS)
    null = without_text_and_sound(inputs)
    schedule, noise = make_schedule(steps), SeededNoise(seed, 0)
    shape = tuple(inputs.clip.shape)

    def predict_clean(x: Tensor, step: int) -> Tensor:
        at = torch.full((1,), schedule.timesteps[step], device=device)
        with_all, without = (predict(networks, x, each._replace(timesteps=at), dtype) for each in (inputs, null))
        return clean_from_velocity(x, without + SCALE * (with_all - without), schedule.wrapped[step])

    latent = sample(
        noise.initial(shape).to(device),
        schedule,
        predict_clean,
        draw_noise=lambda step: noise.step(step, shape).to(device),
    )
    return torch.cat([decode_whole(vae, each) for each in (inputs.clip, latent)], dim=-1)


def without_text_and_sound(inputs: Drawn) -> Drawn:
    """The unconditional inputs for guidance."""
    audio = None if inputs.audio is None else torch.zeros_like(inputs.audio)
    return inputs._replace(text=torch.zeros_like(inputs.text), audio=audio)


def sound_of(entry: Entry, clip: int) -> Recording | None:
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
