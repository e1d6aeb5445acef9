"""A toy set-up of training: films drawn in memory, encoders of noise, and a configuration that runs in seconds."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from hallo3_core.inputs.face import Face
from hallo3_core.toy.noise_vae import tiny_vae_tensors
from hallo3_core.train.cache import FilmEntry, cache_films
from hallo3_core.train.config import Data, Memory, NetworkSizes, Stop, TrainingConfig, Watch
from hallo3_core.train.encoders import Encoders
from hallo3_core.train.film import TrainingFilm, film_of_arrays
from hallo3_core.train.optimiser import Rates, Updating
from hallo3_core.vae.autoencoder import load_vae

_DATA = Data(size=(32, 48), windows=2, references=3, held_out=1, on_device=True)
SIZE = _DATA.size  # height, width: 4 x 6 latent pixels, 2 x 3 tokens
FRAMES = 57


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def copied(module: torch.nn.Module) -> torch.nn.Module:
    """A copy that keeps its weights when the original is freed."""
    return deepcopy(module)


def films(count: int = 3) -> list[TrainingFilm]:
    """A light that moves over a plain picture, another in each film; with a sound and a face."""
    made = []
    h, w = SIZE
    rows, columns = torch.arange(h)[None, :, None], torch.arange(w)[None, None]
    for n in range(count):
        at = torch.arange(FRAMES)[:, None, None] * (0.2 + 0.1 * n)
        light = 200 * torch.exp(-((rows - 8 - at) ** 2 + (columns - 20 + at) ** 2) / 60)
        frames = torch.stack((light, light * 0.5 + 20 * n, 255 - light), dim=-1).to(torch.uint8)
        made.append(film(n, frames.permute(0, 3, 1, 2)))
    return made


def film(n: int, frames: torch.Tensor) -> TrainingFilm:
    """Film number `n` of frames ``n 3 h w``."""
    sound = noise(FRAMES * 640, seed=n) * 0.1
    return film_of_arrays(f"film {n}", frames.permute(0, 2, 3, 1), f"a light, number {n % 2}", (8, 4, 40, 28), sound)


def encoders() -> Encoders:
    """Each gives noise that depends on what it reads, at the toy's sizes."""
    vae = load_vae(tiny_vae_tensors(7), dtype=torch.float32)
    return Encoders(
        vae=vae,
        text=lambda caption: noise(6, 12, seed=len(caption) + ord(caption[-1])),
        audio=lambda recording: noise(recording.frames, 2, 8, seed=recording.samples),
        faces=lambda frame: [face(frame)],
        identity=(("vae", "toy"), ("text", "toy"), ("audio", "toy"), ("face", "toy"), ("dtype", "fp32")),
    )


def face(frame: torch.Tensor) -> Face:
    """A face whose embedding depends on the frame, and whose oval is where the frame is brightest."""
    row, column = divmod(int(frame.sum(0).argmax()), frame.shape[-1])
    oval = (column - 5.0, row - 4.0, column + 5.0, row + 4.0)
    return Face(noise(512, seed=int(frame.float().mean())), oval, torch.zeros(5, 2), 0, 1, 0.9, oval)


def configuration(output: Path, mode: str = "base", **changes) -> TrainingConfig:
    config = TrainingConfig(
        mode=mode,
        output=output,
        data=_DATA,
        batch=2,
        device="cpu",
        precision="fp32",
        stop=Stop(steps=4),
        rates=Rates(peak=1e-3, warmup_steps=2, slow_steps=0),
        updating=Updating(clip=1.0, average=0.99),
        network=NetworkSizes(
            hidden=32,
            heads=2,
            layers=2,
            time=16,
            face_tokens=2,
            face_width=16,
            audio_inner=16,
            audio_tokens=2,
            audio_width=16,
            start="fan_in",
        ),
        memory=Memory(),
        watch=Watch(log_every=2, validate_every=0, checkpoint_minutes=0),
    )
    return replace(config, **changes)


def entries(count: int = 3, folder: Path | None = None) -> list[FilmEntry]:
    """Of the films, read from the folder; without one they are computed once for all tests, which only read them."""
    return _computed(count)[:] if folder is None else cache_films(films(count), encoders(), _DATA, folder)


@cache
def _computed(count: int) -> list[FilmEntry]:
    return cache_films(films(count), encoders(), _DATA, None)
