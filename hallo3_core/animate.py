"""Makes a film on disk from a portrait and a recording: each network is loaded, used and freed in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .clips import Timeline
from .errors import InputError
from .film.background_writer import BackgroundWriter
from .film.clip_chain import Clip, MakeClip, clip_chain, lazily
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
from .pipeline.clip import Conductor, sample_clip
from .pipeline.conditions import ClipCalls, Run, prepare_run
from .pipeline.decoding_fallbacks import decoding_fallbacks
from .pipeline.encoding import EncodedScene, encode_scene
from .pipeline.networks import Networks, check_machine
from .pipeline.options import Options
from .pipeline.sampling_fallbacks import sampling_fallbacks
from .pipeline.scene import Scene, film_inputs, read_scene
from .release.layout import Release
from .runtime.fallback import Fallbacks
from .sampling.finite import NotFinite
from .sampling.noise import SeededNoise
from .vae.autoencoder import VideoVae
from .weights import names

Modes = dict[str, Callable[[], Run]]  # ways to sample a clip, by name; see `sampling_fallbacks`


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
class FinishedFilm:
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
    output: Path,
    networks: Networks,
    progress: Progress | None = None,
    keeping: Keeping = Keeping.UNTIL_WHOLE,
    team: Team | None = None,
) -> FinishedFilm:
    """Makes a film. `output` appears only when it is complete. Clips finished by an earlier run are reused.

    `networks` say what the film is made with and how. With a team, this process is rank 0 and the others call `assist`.

    Raises:
        InputError: an unusable input, reported before the long work where possible.
    """
    progress, release, options = progress or Progress(), networks.release, networks.options
    check_output(output)
    check_tags(options.metadata)
    inputs = (image, audio, *(path for path, _ in options.loras), *release.files())
    work = beside(target_of(output))
    check_apart([output], inputs, work)
    check_machine(options)
    if options.vocals:  # report missing requirements now, not after minutes of work
        check_separator(release.vocals_file)
    check_mask(options.face_mask, release.face_folder)
    with torch.inference_mode():
        scene = read_scene(image, audio, prompt, networks.config, options)
        networks.check_loras()
        networks.check_half_precision(scene.framing.size)
        timeline = Timeline(scene.recording.frames, networks.config.reads.motion_frames)
        _, _, height, width = scene.framing.keep
        check_room(str(output), work.parent, scene.recording.frames, height, width, "choose another place for it")
        plan = FilmPlan(str(output), timeline.clips, height, width, film_inputs(scene, release, options))
        with work_on(work, plan, keeping, "give --no-resume", progress.stage) as (part, store):
            make = lazily(clip_maker(scene, timeline, networks, progress, team))
            notes = dict(metadata=options.metadata, ai_notice=options.ai_notice)
            with (
                make as make_clip,
                FilmWriter(output, height, width, scene.recording, part=part, **notes) as film,
                BackgroundWriter(film) as background,
            ):
                for frames in clip_chain(timeline.clips, make_clip, store, progress.kept):
                    background.write(frames)
    return FinishedFilm(output, film.frames, timeline.clips, height, width)


def assist(team: Team, release: Release, options: Options) -> None:
    """Computes this process's share of the film that rank 0 of the team makes.

    Raises:
        InputError: an unusable denoiser.
    """
    with torch.inference_mode(), Networks(release, options).denoiser(options.size) as denoiser:
        follow(team, denoiser)


@contextmanager
def clip_maker(
    scene: Scene, timeline: Timeline, networks: Networks, progress: Progress, team: Team | None = None
) -> Iterator[MakeClip]:
    """Runs the networks one after another: the encoders; what is constant over the film; then denoiser and VAE, which
    make the clips and are freed at the end.

    Raises:
        InputError: an unusable network or input.
    """
    progress.stage("encoding text, sound and portrait")
    encoded = encode_scene(scene, timeline, networks)
    progress.stage("loading the denoiser")
    prepared = prepare_denoiser(encoded, scene.framing.size, networks, team)
    encoded = encoded.without_bank()  # each layer has its keys and values
    with (
        prepared.opened,
        networks.vae() as vae,
        ClipMaker(encoded, timeline, prepared, vae, networks, progress) as maker,
    ):
        yield maker.make


class Prepared(NamedTuple):
    """The denoiser, what was computed from it once, and a function that starts a clip. `opened` frees the denoiser."""

    opened: ExitStack
    denoiser: Denoiser
    run: Run
    begin_clip: BeginClip
    is_shared: bool  # among the processes of a team


def prepare_denoiser(
    encoded: EncodedScene, size: tuple[int, int], networks: Networks, team: Team | None = None
) -> Prepared:
    """Loads the denoiser for films of `size`, and computes what is constant over the film's clips."""
    settings = networks.options.settings
    inputs = dict(text=encoded.text, face_tokens=encoded.face_tokens, null_audio_tokens=encoded.null_audio_tokens)
    inputs["dtype"] = networks.options.dtype

    def load() -> Prepared:
        with ExitStack() as stack:  # closes everything here if loading fails
            denoiser = stack.enter_context(networks.denoiser(size))
            if team is not None:
                run, begin_clip = lead_run(team, denoiser, encoded.portrait, settings, **inputs)
                return Prepared(stack.pop_all(), denoiser, run, begin_clip, is_shared=True)
            run = prepare_run(denoiser, encoded.portrait, settings, **inputs)
            return Prepared(stack.pop_all(), denoiser, run, partial(ClipCalls, denoiser, run), is_shared=False)

    # A team has no fallback: if rank 0 fails, the other processes hang.
    prepared = load() if team is not None else networks.retrying("preparing the denoiser", names.DENOISER, load)
    # Already computed for all steps and clips. Saves 2 GB on the device, and 3 GB per hour of audio on the host.
    networks.drop(prepared.denoiser.modulation, prepared.denoiser.head_modulation, prepared.denoiser.text_embed)
    return prepared


class ClipMaker:
    """Makes a film's clips with denoiser and VAE, and falls back to less memory when it runs out."""

    def __init__(
        self,
        encoded: EncodedScene,
        timeline: Timeline,
        prepared: Prepared,
        vae: VideoVae,
        networks: Networks,
        progress: Progress,
    ):
        options = networks.options
        self._options, self._progress, self._vae = options, progress, vae
        self._audio_tokens, self._begin_clip = encoded.audio_tokens, prepared.begin_clip
        self._conductor = Conductor(timeline, encoded.portrait, options.color_hold, options.seam_fade)
        self._opened, run, denoiser = ExitStack(), prepared.run, prepared.denoiser
        if prepared.is_shared:
            sampling: Modes = {"with all processes": lambda: run}
        else:
            sampling = sampling_fallbacks(run, denoiser, networks, self._opened)
        self._sampling = Fallbacks("sampling", sampling, progress.stage)
        self._decoding = Fallbacks("decoding", decoding_fallbacks(denoiser, options.device), progress.stage)

    def __enter__(self) -> ClipMaker:
        self._progress.start(self._conductor.timeline.clips, self._options.settings.steps)
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.finish()
        self._opened.close()

    def make(self, clip: int, motion: Tensor | None) -> Clip:
        """Samples, decodes and finishes clip number `clip`, from the end of the previous one."""
        return self._conductor.finish(self.decode(self.sample(clip, motion)), clip, motion)

    def sample(self, clip: int, motion: Tensor | None) -> Tensor:
        """The clip's scaled latent ``1 16 t h w``.

        Raises:
            InputError: the network gave NaN or infinite values.
        """
        try:
            return self._sampling.run(lambda prepare: self._sample(prepare(), clip, motion))
        except NotFinite as error:
            options, clips = self._options, self._conductor.timeline.clips
            cause = likely_cause(options.dtype, options.settings.guidance, bool(options.loras))
            raise InputError(f"clip {clip + 1} of {clips}, {error} {cause}") from error

    def decode(self, latent: Tensor) -> Tensor:
        """Frames ``49 3 H W`` in 0..1."""
        return self._decoding.run(lambda decode: decode(self._vae, latent))

    def _sample(self, run: Run, clip: int, motion: Tensor | None) -> Tensor:
        noise = SeededNoise(self._options.seed, clip)
        concat = self._conductor.concat_latent(self._vae, motion, noise, run.conditions.layout.grid.frames)
        evaluate = self._begin_clip(concat, self._audio_tokens[clip])
        return sample_clip(evaluate, run.settings, concat, noise, partial(self._progress.step, clip))
