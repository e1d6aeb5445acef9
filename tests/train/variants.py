"""A release whose transformers were trained, for a step or two, in a variant of conditioning."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

from hallo3_core.model.conditioning import Conditioning
from hallo3_core.release.layout import TRANSFORMER_FOLDER, Release
from hallo3_core.toy import noise_release as tiny
from hallo3_core.train.cache import cache_films
from hallo3_core.train.loop import train
from tests.train import toys


@cache
def toy_encoders(release: Path):
    """Of the sizes of the toy release, whose VAE they have."""
    config = tiny.CONFIG
    return replace(
        toys.encoders(),
        vae=Release(release).vae(),
        text=lambda caption: toys.noise(config.text_tokens, config.text_width, seed=len(caption)),
        audio=lambda sound: toys.noise(sound.frames, tiny.AUDIO_LAYERS, tiny.AUDIO_WIDTH, seed=sound.samples),
    )


def write_trained_release(folder: Path, toy_release: Path, conditioning: Conditioning) -> Path:
    """Base, identity and audio (where sound is read), two steps each; in `folder` beside the toy release's encoders."""
    encoders, start = toy_encoders(toy_release), None
    data = replace(toys.configuration(folder).data, windows=1, references=1, held_out=0)
    for mode in ("base", "identity", "audio") if conditioning.audio != "none" else ("base", "identity"):
        config = toys.configuration(folder / mode, mode, start=start, data=data, conditioning=conditioning, batch=1)
        network = replace(config.network, hidden=tiny.CONFIG.hidden, heads=tiny.CONFIG.heads, layers=tiny.CONFIG.layers)
        config = replace(config, stop=replace(config.stop, steps=2), network=network)
        entries = cache_films(toys.films(1), encoders, data, None, motion_frames=conditioning.motion_frames)
        start = train(config, encoders=encoders, entries=entries).path
    release = folder / "release"
    shutil.copytree(toy_release, release, ignore=shutil.ignore_patterns(TRANSFORMER_FOLDER))
    shutil.copy(start, release)
    return release
