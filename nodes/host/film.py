"""Makes a whole film: samples and decodes clip after clip into a file in the host's temp folder."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ...hallo3_core.film.clip_chain import Clip, MakeClip, clip_chain
from ...hallo3_core.film.clip_store import ClipStore, FilmPlan, work_on
from ...hallo3_core.film.output import check_room
from ...hallo3_core.film.work_folder import Keeping
from ...hallo3_core.film.writer import FilmWriter
from ...hallo3_core.pipeline.clip import Conductor
from ...hallo3_core.runtime.fallback import Fallbacks
from ..types import Motion
from .conditions import FilmCache
from .progress import StepBar
from .resume import folder_of, inputs_of
from .sampling import ClipSampler
from .vae import decode as decode_latent
from .videos import ELSEWHERE, temp_folder, temp_video

log = logging.getLogger(__name__)


def write_film(clips: ClipSampler, color_hold: float, bar: StepBar, resume_key: str = "", seam_fade: int = 0) -> Path:
    """Samples all clips of the recording into an mp4 with its audio. The file appears when it is complete; after Cancel
    or an error there is none. `color_hold` is the strength of `hold_colour`, `seam_fade` the frames of `fade_seam`; 0
    is off. With a resume key, finished clips are kept until the film is complete, and the next run with the same key
    continues from them.

    Raises:
        InputError: an invalid strength, an input made for another model, a full disk, or a key that is in use.
    """
    conductor = Conductor(clips.timeline, clips.portrait, color_hold, seam_fade)
    clips = replace(clips, film=FilmCache())
    in_turn = replace(clips, settings=replace(clips.settings, batched=False))
    modes = {"as fast as it goes": clips, "with one model call after another": in_turn}
    fallbacks = Fallbacks("sampling", modes, bar.again)

    def sample(clip: int, motion: Tensor | None) -> Tensor:
        before = None if motion is None else Motion(motion)
        return fallbacks.run(lambda sampler: sampler.sample(clip, before, bar.callback()))

    def shown(latent: Tensor) -> Tensor:
        bar.decoding()
        frames = decode(clips.vae.vae, latent)
        bar.decoded()
        return frames

    def make(clip: int, motion: Tensor | None) -> Clip:
        return conductor.finish(shown(sample(clip, motion)), clip, motion)

    _, _, height, width = clips.portrait.framing.keep
    check_room("Hallo3 Long Video", temp_folder(), clips.features.frames, height, width, ELSEWHERE)
    if not resume_key:
        return _write(clips, make, None, bar)
    plan = FilmPlan(f"video {resume_key!r}", clips.count, height, width, inputs_of(clips, color_hold, seam_fade))
    with work_on(folder_of(resume_key), plan, Keeping.UNTIL_WHOLE, "clear resume_key", log.info) as (_, store):
        return _write(clips, make, store, bar)


def _write(clips: ClipSampler, make: MakeClip, store: ClipStore | None, bar: StepBar) -> Path:
    _, _, height, width = clips.portrait.framing.keep
    with FilmWriter(temp_video(), height, width, clips.features.recording) as film:
        for frames in clip_chain(clips.count, make, store, bar.kept):
            film.write(frames)
    return film.path


def decode(vae: Any, latent: Tensor) -> Tensor:
    """Decodes an unscaled latent ``1 16 t h w`` with the host's VAE -> ``n 3 H W`` in 0..1, float32 on the CPU."""
    return decode_latent(vae, latent)[0].movedim(-1, 1).float().clamp(0, 1).cpu()
