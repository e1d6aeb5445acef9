"""A film's frames before rounding to uint8, computed as the program does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from hallo3_core.clips import Timeline
from hallo3_core.inputs.portrait import Portrait
from hallo3_core.model.denoiser import Denoiser
from hallo3_core.pipeline.clip import Conductor, sample_clip
from hallo3_core.pipeline.conditions import ClipCalls, Run
from hallo3_core.sampling.noise import ClipNoise
from hallo3_core.vae.autoencoder import VideoVae
from hallo3_core.vae.latents import decode_whole


def film_clips(
    denoiser: Denoiser,
    vae: VideoVae,
    run: Run,
    portrait: Portrait,
    frames: int,
    audio_tokens: Callable[[int], Tensor | None],
    noise: Callable[[int], ClipNoise],
) -> Iterator[Tensor]:
    """Yields each clip's new frames, ``n 3 H W`` in 0..1, `frames` in total; audio tokens and noise are per clip."""
    motion, timeline = None, Timeline(frames, denoiser.config.reads.motion_frames)
    conductor = Conductor(timeline, portrait)
    for clip in range(timeline.clips):
        draws = noise(clip)
        concat = conductor.concat_latent(vae, motion, draws, run.conditions.layout.grid.frames)
        evaluate = ClipCalls(denoiser, run, concat, audio_tokens(clip))
        decoded = decode_whole(vae, sample_clip(evaluate, run.settings, concat, draws))
        motion = timeline.last_frames(decoded)
        yield timeline.new_frames(decoded, clip)
