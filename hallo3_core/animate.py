"""Makes a film on disk from a portrait and a recording: each network is loaded, used and freed in turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .clips import clip_count
from .errors import InputError
from .film.background_writer import BackgroundWriter
from .film.clip_chain import MakeClip, clip_chain, lazily
from .film.clip_store import FilmPlan, beside, work_on
from .film.output import check_apart, check_output, check_room, target_of
from .film.tags import check_tags
from .film.work_folder import Keeping
from .film.writer import FilmWriter
from .inputs.face import check_mask
from .inputs.vocals import check_separator
from .model.denoiser import Denoiser
from .parallel.spread import BeginClip, follow, lead_run
from .parallel.team import Team
from .pipeline.causes import likely_cause
from .pipeline.clip import concat_latent, make_clip, sample_clip
from .pipeline.conditions import ClipCalls, Run, prepare_run
from .pipeline.decoding_fallbacks import decoding_fallbacks
from .pipeline.encoding import encode_portrait, encode_prompt, encode_sound
from .pipeline.networks import Networks, check_machine
from .pipeline.options import Options
from .pipeline.sampling_fallbacks import sampling_fallbacks
from .pipeline.scene import Scene, film_inputs, read_scene
from .release.layout import Release
from .runtime.fallback import Fallbacks
from .sampling.finite import NotFinite
from .sampling.noise import SeededNoise
from .weights import names


class Progress:
    """Progress callbacks; this base class does nothing. Steps are counted over all clips of the film."""

    def stage(self, text: str) -> None:
        """A stage begins; `text` describes it."""

    def start(self, clips: int, steps: int) -> None:
        """Sampling begins: `clips` clips of `steps` steps each."""

    def kept(self, clip: int) -> None:
        """A clip exists from an earlier run, so its steps are skipped. May be called before `start`."""

    def step(self, clip: int, step: int, clean: Tensor) -> None:
        """A step of a clip is done; `clean` is the current x0 prediction."""

    def finish(self) -> None:
        """Sampling has ended, with or without an error."""


@dataclass(frozen=True)
class Film:
    """The finished film."""

    path: Path
    frames: int
    clips: int
    height: int
    width: int


def animate(
    image: Path,
    audio: Path,
    prompt: str,
    release: Release,
    output: Path,
    options: Options,
    progress: Progress | None = None,
    keeping: Keeping = Keeping.UNTIL_WHOLE,
    team: Team | None = None,
    networks: Networks | None = None,
) -> Film:
    """Makes a film. `output` appears only when it is complete. Clips finished by an earlier run are reused.

    With a team, this process is rank 0 and the others call `assist`. `networks` may be reused from an earlier film with
    the same release and options.

    Raises:
        InputError: an unusable input, reported before the long work where possible.
    """
    progress = progress or Progress()
    check_output(output)
    check_tags(options.metadata)
    inputs = (image, audio, *(path for path, _ in options.loras), *release.files())
    work = beside(target_of(output))
    check_apart([output], inputs, work)
    check_machine(options)
    if options.vocals:  # report missing requirements now, not after minutes of work
        check_separator(release.vocals_file)
    check_mask(options.face_mask, release.face_folder)
    networks = networks or Networks(release, options)
    with torch.inference_mode():
        scene = read_scene(image, audio, prompt, networks.config, options)
        networks.check_loras()
        networks.check_half_precision(scene.framing.size)
        clips = clip_count(scene.recording.frames, networks.config.reads.motion_frames)
        _, _, height, width = scene.framing.keep
        check_room(str(output), work.parent, scene.recording.frames, height, width, "choose another place for it")
        plan = FilmPlan(str(output), clips, height, width, film_inputs(scene, release, options))
        with work_on(work, plan, keeping, "give --no-resume", progress.stage) as (part, store):
            make = lazily(clip_maker(scene, networks, progress, team))
            notes = dict(metadata=options.metadata, ai_notice=options.ai_notice)
            with (
                make as make_clip,
                FilmWriter(output, height, width, scene.recording, part=part, **notes) as film,
                BackgroundWriter(film) as background,
            ):
                for frames in clip_chain(clips, make_clip, store, progress.kept):
                    background.write(frames)
    return Film(output, film.frames, clips, height, width)


def assist(team: Team, release: Release, options: Options) -> None:
    """Computes this process's share of the film that rank 0 of the team makes.

    Raises:
        InputError: an unusable denoiser.
    """
    with torch.inference_mode(), Networks(release, options).denoiser(options.size) as denoiser:
        follow(team, denoiser)


@contextmanager
def clip_maker(scene: Scene, networks: Networks, progress: Progress, team: Team | None = None) -> Iterator[MakeClip]:
    """Loads and runs the networks one after another. The last two, which make the clips, are freed at the end.

    Raises:
        InputError: an unusable network or input.
    """
    options = networks.options
    progress.stage("encoding text, sound and portrait")
    motion_frames = networks.config.reads.motion_frames
    text = encode_prompt(scene.prompt, networks)
    audio_tokens, null_audio_tokens = encode_sound(scene.recording, networks)
    portrait, face_tokens = encode_portrait(scene, networks)
    progress.stage("loading the denoiser")
    inputs = dict(text=text, face_tokens=face_tokens, null_audio_tokens=null_audio_tokens, dtype=options.dtype)

    def load_and_prepare() -> tuple[ExitStack, Denoiser, Run, BeginClip]:
        with ExitStack() as stack:  # closes everything here if loading fails
            denoiser = stack.enter_context(networks.denoiser(scene.framing.size))
            if team is not None:
                return stack.pop_all(), denoiser, *lead_run(team, denoiser, portrait, options.settings, **inputs)
            run = prepare_run(denoiser, portrait, options.settings, **inputs)
            return stack.pop_all(), denoiser, run, partial(ClipCalls, denoiser, run)

    # A team has no fallback: if rank 0 fails, the other processes hang.
    retrying = networks.retrying if team is None else lambda what, name, work: work()
    loaded, denoiser, run, begin_clip = retrying("preparing the denoiser", names.DENOISER, load_and_prepare)
    with loaded:
        # Already computed for all steps and clips. Saves 2 GB on the device, and 3 GB per hour of audio on the host.
        networks.drop(denoiser.modulation, denoiser.head_modulation, denoiser.text_embed)
        portrait = replace(portrait, bank=(), null_bank=None)
        with networks.vae() as vae, ExitStack() as opened:
            modes = {"with all processes": lambda: run} if team else sampling_fallbacks(run, denoiser, networks, opened)
            sampling = Fallbacks("sampling", modes, progress.stage)
            decoding = Fallbacks("decoding", decoding_fallbacks(denoiser, options.device), progress.stage)

            def sample(clip: int, motion: Tensor | None) -> Tensor:
                def report(step: int, clean: Tensor) -> None:
                    progress.step(clip, step, clean)

                def attempt(run: Run) -> Tensor:
                    noise = SeededNoise(options.seed, clip)
                    frames = run.conditions.layout.grid.frames
                    concat = concat_latent(vae, portrait.pixels, motion, noise, frames, motion_frames)
                    return sample_clip(begin_clip(concat, audio_tokens[clip]), run.settings, concat, noise, report)

                try:
                    return sampling.run(lambda prepare: attempt(prepare()))
                except NotFinite as error:
                    cause = likely_cause(options.dtype, options.settings.guidance, bool(options.loras))
                    raise InputError(f"clip {clip + 1} of {len(audio_tokens)}, {error} {cause}") from error

            progress.start(len(audio_tokens), len(run.schedule))
            try:
                yield partial(
                    make_clip,
                    sample=sample,
                    decode=lambda latent: decoding.run(lambda decode: decode(vae, latent)),
                    frames=scene.recording.frames,
                    motion_frames=motion_frames,
                    portrait=portrait,
                    color_hold=options.color_hold,
                    seam_fade=options.seam_fade,
                )
            finally:
                progress.finish()
