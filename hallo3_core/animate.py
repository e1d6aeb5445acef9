"""One portrait and one recording to a film on disk: every network is loaded, used and let go in turn."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .audio import AudioFeatures, clip_audio, encode_audio
from .background_writer import BackgroundWriter
from .checkpoints import names
from .checkpoints.lora import read_lora
from .checkpoints.release import Release
from .clip_chain import Clip, MakeClip, clip_chain, lazily
from .clip_store import FilmPlan, beside, work_on
from .clips import clip_count
from .color import check_strength, hold_colour
from .config import TransformerConfig
from .errors import InputError
from .face import embed_face
from .faults import NotFinite, Ways, likely_cause
from .film import FilmWriter, check_output
from .fingerprint import SAME_FILM, film_inputs
from .image import Framing, crop_to, plan_framing, read_image, to_uint8
from .networks import Networks, check_options
from .noise import SeededNoise
from .parallel.spread import follow, lead_run
from .parallel.team import Team
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
from .sampling_ways import sampling_ways
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
    framing: str = "auto"  # or "crop", "pad", "native"
    face: str = "largest"  # or "whole": the whole picture serves where no face is found
    face_provider: str = "CPU"
    loras: tuple[tuple[Path, float], ...] = ()  # files and strengths
    color_hold: float = 0.0  # strength of `hold_colour`
    metadata: Mapping[str, str] = field(default_factory=dict, metadata=SAME_FILM)  # kept in the film's file
    ai_notice: bool = field(default=True, metadata=SAME_FILM)  # the film says that it is AI-generated
    device: str = field(default="cpu", metadata=SAME_FILM)  # its kind counts, not its number
    dtype: torch.dtype = torch.float32
    compile: bool = field(default=False, metadata=SAME_FILM)  # the denoiser's block, by torch.compile
    attention: str = "auto"  # of the denoiser; see `attention_backends.py`
    fp8: str | None = None  # the denoiser's matrices: "weights" kept in eight bits, "products" multiplied so too
    stream: bool = field(default=False, metadata=SAME_FILM)  # blocks stay in host memory


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
    team: Team | None = None,
    networks: Networks | None = None,
) -> Film:
    """Make a film; `output` appears only when it is whole. Clips that a run before finished are not made again.

    With a team this is its rank 0, and the others `assist`. `networks`, of this release and these options, may be kept
    from an earlier film.

    Raises:
        InputError: any input that cannot serve, before the long work where it can be told.
    """
    progress = progress or Progress()
    check_output(output)
    SeededNoise(options.seed, 0)  # a bad seed, like bad settings, is told before minutes of work
    options.settings.branches()
    check_options(options)
    check_strength(options.color_hold)
    networks = networks or Networks(release, options)
    with torch.inference_mode():
        scene = read_scene(image, audio, prompt, networks.config, options)
        clips = clip_count(scene.recording.frames)
        _, _, height, width = scene.framing.keep
        plan = FilmPlan(str(output), clips, height, width, film_inputs(scene, release, options))
        with work_on(beside(output), plan, keeping, "give --no-resume", progress.stage) as (part, store):
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
    """Compute a further process's part of the film that rank 0 of the team makes.

    Raises:
        InputError: a denoiser that cannot serve.
    """
    with torch.inference_mode(), Networks(release, options).denoiser(options.size) as denoiser:
        follow(team, denoiser)


def read_scene(image: Path, audio: Path, prompt: str, config: TransformerConfig, options: Options) -> Scene:
    """Read and check what a film is made of.

    Raises:
        InputError: a picture, recording, size or LoRA that cannot serve.
    """
    picture = read_image(image)[None]
    height, width = picture.shape[-2:]
    size, mode = film_frame(options.size, options.framing, config, is_square=height == width)
    framing = plan_framing(height, width, *size, mode)
    for path, _ in options.loras:
        read_lora(path, config)  # its list of tensors; the values are read when the denoiser is there
    return Scene(picture, image.name, framing, read_recording(audio), prompt)


@contextmanager
def clip_maker(scene: Scene, networks: Networks, progress: Progress, team: Team | None = None) -> Iterator[MakeClip]:
    """Load and use network after network, up to the two that make clips; those are let go at the end.

    Raises:
        InputError: a network or input that cannot serve.
    """
    options = networks.options
    progress.stage("encoding text, sound and portrait")
    text = encode_prompt(scene.prompt, networks)
    features = encode_recording(scene.recording, networks)
    audio_tokens, null_audio_tokens = project_audio(features, networks)
    portrait, face_tokens = encode_portrait(scene, networks)
    progress.stage("loading the denoiser")
    with networks.denoiser(scene.framing.size) as denoiser:
        inputs = dict(text=text, face_tokens=face_tokens, null_audio_tokens=null_audio_tokens, dtype=options.dtype)
        if team is None:
            run = prepare_run(denoiser, portrait, options.settings, **inputs)
        else:
            denoiser, run = lead_run(team, denoiser, portrait, options.settings, **inputs)
        # Computed for all steps and clips: 1.6 GB less on the device.
        networks.let_go(denoiser.modulation, denoiser.head_modulation, denoiser.text_embed)
        with networks.vae() as vae, ExitStack() as opened:
            # Where rank 0 of a team fails, the others are stuck: there is no second way.
            ways = {"with all processes": lambda: run} if team else sampling_ways(run, denoiser, networks, opened)
            sampling = Ways("sampling", ways, progress.stage)
            decoding = Ways("decoding", {"whole": decode_whole, "in tiles": decode_tiled}, progress.stage)

            def make(clip: int, motion: Tensor | None) -> Clip:
                def report(step: int, clean: Tensor) -> None:
                    progress.step(clip, step, clean)

                def sample(run: Run) -> Tensor:
                    noise = SeededNoise(options.seed, clip)
                    concat = concat_latent(vae, portrait.pixels, motion, noise, run.layout.grid.frames)
                    return sample_clip(denoiser, run, concat, audio_tokens[clip], noise, report)

                try:
                    latent = sampling.first(lambda way: sample(way()))
                except NotFinite as error:
                    cause = likely_cause(options.dtype, options.settings.guidance, bool(options.loras))
                    raise InputError(f"clip {clip + 1} of {len(audio_tokens)}, {error} {cause}") from error
                decoded = decoding.first(lambda decode: decode(vae, latent))
                decoded = hold_colour(decoded, portrait.pixels, portrait.framing, options.color_hold)
                new = new_frames(decoded, clip, features.frames)
                return Clip(to_uint8(crop_to(new, portrait.framing).cpu()), last_frames(decoded).cpu())

            progress.start(len(audio_tokens), len(run.schedule))
            try:
                yield make
            finally:
                progress.finish()


def decode_whole(vae: VideoVae, latent: Tensor) -> Tensor:
    """A scaled latent's frames ``n 3 H W`` in 0..1."""
    return torch.cat(list(decode(vae, latent)))


def decode_tiled(vae: VideoVae, latent: Tensor) -> Tensor:
    """The same in a fraction of the memory, on the CPU."""
    return as_frames(decode_in_tiles(vae, unscaled(latent)))


def film_frame(
    size: tuple[int, int] | None, framing: str, config: TransformerConfig, is_square: bool
) -> tuple[tuple[int, int], str]:
    """Height and width in pixels, and how `plan_framing` is to frame a portrait in them.

    "native" gives a square portrait a square film, as high as the padded one would be: its tokens stand where they
    would stand there, and the black ones beside them are not computed. A size other than the trained one that was asked
    for gets a warning.
    """
    trained = (config.grid.rows * PATCH_PIXELS, config.grid.columns * PATCH_PIXELS)
    if size is not None and size != trained:
        log.warning(
            "%dx%d: the model was trained on %dx%d (height x width) alone; other sizes work, with weaker results",
            *size,
            *trained,
        )
    size = size or trained
    if framing != "native":
        return size, framing
    return ((min(size), min(size)) if is_square else size), "auto"


def encode_prompt(prompt: str, networks: Networks) -> Tensor:
    """``1 m w``, on the CPU."""
    with networks.text_encoder() as encoder:
        text = encoder.encode(prompt).cpu()
    config = networks.config
    if tuple(text.shape[1:]) != (config.text_tokens, config.text_width):
        raise InputError(
            f"{networks.release.text_folder}: gives text of {text.shape[1]} x {text.shape[2]}, the denoiser reads "
            f"{config.text_tokens} x {config.text_width}. Use the T5 encoder that came with the denoiser."
        )
    return text


def encode_recording(recording: Recording, networks: Networks) -> AudioFeatures:
    """wav2vec features of the whole recording, on the CPU."""
    with networks.wav2vec() as wav2vec:
        return encode_audio(recording, wav2vec)


def project_audio(features: AudioFeatures, networks: Networks) -> tuple[list[Tensor], Tensor]:
    """Audio tokens ``1 t n c`` of every clip, and those of the null."""
    options = networks.options
    with networks.part(names.AUDIO_PROJECTOR) as projector:
        inputs = features.hidden.shape[1] * features.hidden.shape[2] * 5
        expected = projector.proj1.weight.shape[1]
        if inputs != expected:
            raise InputError(
                f"{networks.release.wav2vec_folder}: gives {inputs} values a frame, the denoiser reads {expected}. "
                "Use the wav2vec2 that came with the denoiser."
            )

        def project(windows: Tensor) -> Tensor:
            return projector(windows[None].to(options.device, options.dtype)).cpu()

        clips = [project(clip_audio(features, clip)) for clip in range(clip_count(features.frames))]
        return clips, project(torch.zeros_like(clip_audio(features, 0)))


def encode_portrait(scene: Scene, networks: Networks) -> tuple[Portrait, Tensor]:
    """The portrait's bank and face tokens."""
    options = networks.options
    whole = options.face == "whole"
    with networks.face_analyser() as analyser:
        face, mask = embed_face(
            scene.picture[0],
            analyser,
            "largest" if whole else options.face,
            "whole image" if whole else "error",
            name=scene.name,
        )
    with_null = any(not branch.reference for branch in options.settings.branches())
    place = dict(device=options.device, dtype=options.dtype)
    with networks.part(names.FACE_PROJECTOR) as projector:
        face_tokens = projector(face.embedding[None].to(**place))
    with networks.vae() as vae, networks.part(names.REFERENCE_NET) as reference_net:
        portrait = prepare_portrait(
            scene.picture.to(**place), mask.to(**place), scene.framing, vae, reference_net, with_null=with_null
        )
    return portrait, face_tokens
