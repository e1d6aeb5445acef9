"""One portrait and one recording to a film on disk: every network is loaded, used and let go in turn."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from .audio import AudioFeatures, clip_audio, encode_audio, load_wav2vec
from .checkpoints import names
from .checkpoints.lora import apply_lora, read_lora
from .checkpoints.parts import build
from .checkpoints.release import Release
from .clip_chain import Clip, MakeClip, clip_chain, lazily
from .clip_store import FilmPlan, beside, work_on
from .clips import clip_count
from .config import TransformerConfig
from .errors import InputError
from .face import embed_face, load_face_analyser
from .faults import NotFinite, Ways, likely_cause
from .film import FilmWriter, check_output
from .fingerprint import SAME_FILM, film_inputs
from .image import Framing, crop_to, plan_framing, read_image, to_uint8
from .model.denoiser import Denoiser
from .noise import SeededNoise
from .pipeline import (
    Portrait,
    Run,
    Settings,
    as_frames,
    concat_latent,
    decode,
    last_frames,
    new_frames,
    prepare_portrait,
    prepare_run,
    sample_clip,
    unscaled,
)
from .recording import Recording, read_recording
from .text import load_text_encoder
from .tiles import decode_in_tiles
from .vae import VideoVae
from .work_folder import Keeping

log = logging.getLogger(__name__)
PATCH_PIXELS = 16  # picture pixels a token covers


@dataclass(frozen=True)
class Options:
    """Everything a film depends on beside its portrait, recording, sentence and networks."""

    settings: Settings = field(default_factory=Settings)
    seed: int = 0
    size: tuple[int, int] | None = None  # height, width; None: what the model was trained on
    framing: str = "auto"
    face: str = "largest"  # or "whole": the whole picture serves where no face is found
    face_provider: str = "CPU"
    loras: tuple[tuple[Path, float], ...] = ()  # files and strengths
    metadata: Mapping[str, str] = field(default_factory=dict, metadata=SAME_FILM)  # kept in the film's file
    ai_notice: bool = field(default=True, metadata=SAME_FILM)  # the film says that it is AI-generated
    device: str = field(default="cpu", metadata=SAME_FILM)  # its kind counts, not its number
    dtype: torch.dtype = torch.float32


class Progress:
    """What a caller may watch; this one watches nothing. Steps are counted over all clips of the film."""

    def stage(self, text: str) -> None:
        """A stage begins."""

    def start(self, clips: int, steps: int) -> None:
        """Sampling begins: so many clips of so many steps."""

    def kept(self, clip: int) -> None:
        """A clip is there from an earlier run: its steps are not needed. May come before `start`."""

    def step(self, clip: int, step: int, clean: Tensor) -> None:
        """A step of a clip is done; its x0 so far."""

    def finish(self) -> None:
        """Sampling is over, well or badly."""


@dataclass(frozen=True)
class Film:
    """What was made."""

    path: Path
    frames: int
    clips: int
    height: int
    width: int


@dataclass(frozen=True)
class Scene:
    """What a film is made of, read and checked: the picture ``1 3 h w`` in 0..1 with its name, how it is framed, the
    recording and the sentence."""

    picture: Tensor
    name: str
    framing: Framing
    recording: Recording
    prompt: str


def animate(
    image: Path,
    audio: Path,
    prompt: str,
    release: Release,
    output: Path,
    options: Options,
    progress: Progress | None = None,
    keeping: Keeping = Keeping.UNTIL_WHOLE,
) -> Film:
    """Make a film; `output` appears only when it is whole. Clips that a run before finished are not made again.

    Raises:
        InputError: any input that cannot serve, before the long work where it can be told.
    """
    progress = progress or Progress()
    check_output(output)
    SeededNoise(options.seed, 0)  # a bad seed, like bad settings, is told before minutes of work
    options.settings.branches()
    with torch.inference_mode():
        scene = read_scene(image, audio, prompt, release, options)
        clips = clip_count(scene.recording.frames)
        _, _, height, width = scene.framing.keep
        plan = FilmPlan(str(output), clips, height, width, film_inputs(scene, release, options))
        with work_on(beside(output), plan, keeping, "give --no-resume", progress.stage) as (part, store):
            make = lazily(clip_maker(scene, release, options, progress))
            notes = dict(metadata=options.metadata, ai_notice=options.ai_notice)
            with make as make_clip, FilmWriter(output, height, width, scene.recording, part=part, **notes) as film:
                for frames in clip_chain(clips, make_clip, store, progress.kept):
                    film.write(frames)
    return Film(output, film.frames, clips, height, width)


def read_scene(image: Path, audio: Path, prompt: str, release: Release, options: Options) -> Scene:
    """Read and check what a film is made of.

    Raises:
        InputError: a picture, recording, size or LoRA that cannot serve.
    """
    picture = read_image(image)[None]
    config = denoiser_config(release)
    framing = plan_framing(*picture.shape[-2:], *film_size(options.size, config), options.framing)
    for path, _ in options.loras:
        read_lora(path, config)  # its list of tensors; the values are read when the denoiser is there
    return Scene(picture, image.name, framing, read_recording(audio), prompt)


@contextmanager
def clip_maker(scene: Scene, release: Release, options: Options, progress: Progress) -> Iterator[MakeClip]:
    """Load and use network after network, up to the two that make clips; those are let go at the end.

    Raises:
        InputError: a network or input that cannot serve.
    """
    config = denoiser_config(release)
    progress.stage("encoding text, sound and portrait")
    text = encode_prompt(scene.prompt, release, config, options)
    features = encode_recording(scene.recording, release, options)
    audio_tokens, null_audio_tokens = project_audio(features, release, options)
    portrait, face_tokens = encode_portrait(scene, release, options)
    progress.stage("loading the denoiser")
    with _use(load_denoiser(release, config, options), options) as denoiser:
        run = prepare_run(
            denoiser,
            portrait,
            options.settings,
            text=text,
            face_tokens=face_tokens,
            null_audio_tokens=null_audio_tokens,
            dtype=options.dtype,
        )
        denoiser.modulation.to("meta")  # computed for all steps: 1.6 GB less on the device
        with _use(release.vae(dtype=options.dtype), options) as vae:
            sampling = Ways("sampling", sampling_ways(run), progress.stage)
            decoding = Ways("decoding", {"whole": decode_whole, "in tiles": decode_tiled}, progress.stage)

            def make(clip: int, motion: Tensor | None) -> Clip:
                def report(step: int, clean: Tensor) -> None:
                    progress.step(clip, step, clean)

                def sample(run: Run) -> Tensor:
                    noise = SeededNoise(options.seed, clip)
                    concat = concat_latent(vae, portrait.pixels, motion, noise, run.layout.grid.frames)
                    return sample_clip(denoiser, run, concat, audio_tokens[clip], noise, report)

                try:
                    latent = sampling.first(sample)
                except NotFinite as error:
                    cause = likely_cause(options.dtype, options.settings.guidance, bool(options.loras))
                    raise InputError(f"clip {clip + 1} of {len(audio_tokens)}, {error} {cause}") from error
                decoded = decoding.first(lambda decode: decode(vae, latent))
                new = new_frames(decoded, clip, features.frames)
                return Clip(to_uint8(crop_to(new, portrait.framing).cpu()), last_frames(decoded).cpu())

            progress.start(len(audio_tokens), len(run.schedule))
            try:
                yield make
            finally:
                progress.finish()


def sampling_ways(run: Run) -> dict[str, Run]:
    """Ways to sample a clip, from fast to small, by name."""
    in_turn = {"with one evaluation after another": replace(run, settings=replace(run.settings, batched=False))}
    together = {"with the evaluations of a step together": run}
    return together | in_turn if run.settings.batched and len(run.settings.branches()) > 1 else in_turn


def decode_whole(vae: VideoVae, latent: Tensor) -> Tensor:
    """A scaled latent's frames ``n 3 H W`` in 0..1."""
    return torch.cat(list(decode(vae, latent)))


def decode_tiled(vae: VideoVae, latent: Tensor) -> Tensor:
    """The same in a fraction of the memory, on the CPU."""
    return as_frames(decode_in_tiles(vae, unscaled(latent)))


def denoiser_config(release: Release) -> TransformerConfig:
    """The denoiser's sizes, without loading it."""
    return build(release.engine(), names.DENOISER, label=release.label).config


def load_denoiser(release: Release, config: TransformerConfig, options: Options) -> Denoiser:
    """The denoiser with its LoRAs, on the CPU."""
    denoiser = release.network(names.DENOISER, dtype=options.dtype)
    for path, strength in options.loras:
        apply_lora(denoiser, read_lora(path, config), strength)
    return denoiser


def film_size(size: tuple[int, int] | None, config: TransformerConfig) -> tuple[int, int]:
    """Height and width in pixels; a size other than the trained one gets a warning."""
    trained = (config.grid.rows * PATCH_PIXELS, config.grid.columns * PATCH_PIXELS)
    if size is not None and size != trained:
        log.warning(
            "%dx%d: the model was trained on %dx%d (height x width) alone; other sizes work, with weaker results",
            *size,
            *trained,
        )
    return size or trained


def encode_prompt(prompt: str, release: Release, config: TransformerConfig, options: Options) -> Tensor:
    """``1 m w``, on the CPU; the text encoder is let go."""
    folder = release.text_folder
    encoder = load_text_encoder(folder, device=options.device, dtype=options.dtype, tokens=config.text_tokens)
    text = encoder.encode(prompt).cpu()
    if tuple(text.shape[1:]) != (config.text_tokens, config.text_width):
        raise InputError(
            f"{folder}: gives text of {text.shape[1]} x {text.shape[2]}, the denoiser reads "
            f"{config.text_tokens} x {config.text_width}. Use the T5 encoder that came with the denoiser."
        )
    return text


def encode_recording(recording: Recording, release: Release, options: Options) -> AudioFeatures:
    """wav2vec features of the whole recording, on the CPU."""
    return encode_audio(recording, load_wav2vec(release.wav2vec_folder, device=options.device))


def project_audio(features: AudioFeatures, release: Release, options: Options) -> tuple[list[Tensor], Tensor]:
    """Audio tokens ``1 t n c`` of every clip, and those of the null; the projector (2.5 GB) is let go."""
    with _use(release.network(names.AUDIO_PROJECTOR, dtype=options.dtype), options) as projector:
        inputs = features.hidden.shape[1] * features.hidden.shape[2] * 5
        expected = projector.proj1.weight.shape[1]
        if inputs != expected:
            raise InputError(
                f"{release.wav2vec_folder}: gives {inputs} values a frame, the denoiser reads {expected}. "
                "Use the wav2vec2 that came with the denoiser."
            )

        def project(windows: Tensor) -> Tensor:
            return projector(windows[None].to(options.device, options.dtype)).cpu()

        clips = [project(clip_audio(features, clip)) for clip in range(clip_count(features.frames))]
        return clips, project(torch.zeros_like(clip_audio(features, 0)))


def encode_portrait(scene: Scene, release: Release, options: Options) -> tuple[Portrait, Tensor]:
    """The portrait's bank and face tokens; detector, VAE and reference network are let go."""
    analyser = load_face_analyser(release.face_folder, options.face_provider)
    whole = options.face == "whole"
    face, mask = embed_face(
        scene.picture[0],
        analyser,
        "largest" if whole else options.face,
        "whole image" if whole else "error",
        name=scene.name,
    )
    with_null = any(not branch.reference for branch in options.settings.branches())
    place = dict(device=options.device, dtype=options.dtype)
    with _use(release.network(names.FACE_PROJECTOR, dtype=options.dtype), options) as projector:
        face_tokens = projector(face.embedding[None].to(**place))
    with (
        _use(release.vae(dtype=options.dtype), options) as vae,
        _use(release.network(names.REFERENCE_NET, dtype=options.dtype), options) as reference_net,
    ):
        portrait = prepare_portrait(
            scene.picture.to(**place), mask.to(**place), scene.framing, vae, reference_net, with_null=with_null
        )
    return portrait, face_tokens


@contextmanager
def _use(module: torch.nn.Module, options: Options) -> Iterator[torch.nn.Module]:
    """The module on the device for as long as it is used."""
    try:
        yield module.to(options.device)
    finally:
        module.to("meta")
