"""Trains the toy release's transformers on drawn films in three phases, base, identity, audio, and then everything once
more in windows of the picture (`toy_lesson.py`).

The original freezes most weights in each phase, because they were trained on far more data than its films. Here every
phase trains all weights, because there is no pretrained knowledge to preserve.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..inputs.face import RECOGNISER
from ..release.layout import FACE_FOLDER, Release
from ..toy.learning.faces import embed_faces
from ..toy.learning.footage import DrawnFootage
from ..toy.sizes import Sizes
from ..toy.training import TransformersWork
from .cache import cache_films
from .config import Data, NetworkSizes, Stop, TrainingConfig, Watch
from .draw import Chances
from .encoders import release_encoders
from .film import TrainingFilm, film_of_arrays
from .loop import train
from .materials import input_sizes
from .optimiser import Rates, Updating
from .result import write_official
from .toy_lesson import MOUTH_WEIGHT, Lesson, teach
from .trainable import EVERYTHING, Rule

PHASES = ("base", "identity", "audio")
TRAINS = {
    "base": Rule(denoiser=EVERYTHING),
    "identity": Rule(denoiser=EVERYTHING, reference_net=EVERYTHING, excluded=("audio",)),
    "audio": Rule(denoiser=EVERYTHING, reference_net=EVERYTHING),
}
PEAK = {"base": 1.5e-3, "identity": 1.2e-3, "audio": 1.2e-3}
WINDOWS, REFERENCES = 2, 6  # clips and portraits per film
ENDLESS = 10_000_000  # steps: time limits a phase


def train_toy_transformers(work: TransformersWork) -> dict[str, Any]:
    """Writes the trained transformers into the work's release; returns each phase's steps and losses.

    Raises:
        InputError: part of the release is missing.
        Stopped: the process was asked to stop; the next call resumes.
    """
    device = torch.device(work.device)
    fast = device.type == "cuda"
    faces = embed_faces(work.release / FACE_FOLDER / RECOGNISER, work.footage.frames[:, 0], work.footage.points)
    release = Release(work.release)
    encoders = release_encoders(release, device=device, dtype=torch.float32, text_tokens=work.sizes.text_tokens)
    config = configuration(work.sizes, work.place, work.plan.seed, work.device)
    cache = None if fast else work.place / "cache"  # a GPU recomputes it faster than a disk reads it
    entries = cache_films(as_films(work.footage, faces), encoders, config.data, cache)
    even = [replace(entry, weight=None) for entry in entries]
    measured, start = {}, None
    for phase in PHASES:
        own = replace(
            config,
            mode=phase,
            start=start,
            output=work.place / phase,
            stop=Stop(ENDLESS, getattr(work.plan, f"{phase}_seconds")),
            rates=replace(config.rates, peak=PEAK[phase]),
            trains=TRAINS[phase],
        )
        result = train(own, encoders=encoders, entries=even)
        measured[phase] = {
            "steps": result.steps,
            "batch": own.batch,
            "loss": result.loss,
            "validation_loss": result.validation_loss,
        }
        start = result.path
    place = work.place / "lesson"
    place.mkdir(exist_ok=True)
    result = place / "hallo3_lesson.safetensors"
    lesson = Lesson(start, result, place, work.plan.lesson_seconds, seed=work.plan.seed, device=work.device)
    learnt = entries[: -config.data.held_out]
    measured["lesson"] = teach(lesson, config.network, input_sizes(entries[0]), learnt, encoders.vae)
    write_official(result, work.release)
    return measured


def configuration(sizes: Sizes, output: Path, seed: int, device: str) -> TrainingConfig:
    """The configuration shared by all phases."""
    fast = torch.device(device).type == "cuda"
    return TrainingConfig(
        output=output,
        seed=seed,
        device=device,
        precision="bf16" if fast else "fp32",
        batch=48 if fast else 8,
        data=Data(
            size=(sizes.height, sizes.width),
            windows=WINDOWS,
            references=REFERENCES,
            held_out=16,
            on_device=True,
            mouth_weight=MOUTH_WEIGHT,
        ),
        rates=Rates(peak=1e-3, warmup_steps=100, slow_steps=0, last=0.02, decay_from=0.4),
        updating=Updating(betas=(0.9, 0.95), weight_decay=1e-3, clip=1.0, average=0.998),
        chances=Chances(drop_audio=0.1, drop_text=0.1),
        network=NetworkSizes(
            hidden=sizes.hidden,
            heads=sizes.heads,
            layers=sizes.layers,
            time=sizes.time,
            text_tokens=sizes.text_tokens,
            face_tokens=sizes.face_tokens,
            face_width=sizes.face_token_width,
            audio_inner=sizes.audio_inner,
            audio_tokens=sizes.audio_tokens,
            audio_width=sizes.audio_token_width,
            start="fan_in",
        ),
        watch=Watch(log_every=50, validate_every=0, checkpoint_minutes=0 if fast else 5),
    )


def as_films(footage: DrawnFootage, faces: Tensor) -> list[TrainingFilm]:
    return [
        film_of_arrays(
            f"drawn video {seed}",
            np.array(footage.frames[n]),
            footage.captions[n],
            footage.boxes[n, 1].tolist(),
            np.array(footage.sounds[n]),
            face=faces[n],
            mouth=footage.boxes[n, 0].tolist(),
        )
        for n, seed in enumerate(footage.seeds)
    ]
