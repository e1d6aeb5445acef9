"""Films made with the toy release in the program's stages, with networks that are loaded once for many films."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from hallo3_core.clips import FPS, NEW_FRAMES_PER_CLIP, Timeline
from hallo3_core.film.clip_chain import Clip, clip_chain
from hallo3_core.inputs.face import EMBEDDING
from hallo3_core.inputs.image import plan_framing
from hallo3_core.inputs.recording import VOICE_RATE, Recording
from hallo3_core.pipeline.clip import Conductor, sample_clip
from hallo3_core.pipeline.conditions import ClipCalls, prepare_run
from hallo3_core.pipeline.encoding import encode_scene
from hallo3_core.pipeline.networks import Networks
from hallo3_core.pipeline.options import Options, Settings
from hallo3_core.pipeline.scene import Scene, film_frame
from hallo3_core.release.layout import Release
from hallo3_core.sampling.guidance import Guidance, Scales
from hallo3_core.sampling.noise import SeededNoise
from hallo3_core.sampling.sampler import DPMPP_2M
from hallo3_core.toy.world.captions import caption
from hallo3_core.toy.world.films import HELD_OUT, SIZE, DrawnFilm, draw_film
from hallo3_core.vae.autoencoder import PIXELS
from hallo3_core.vae.latents import decode_whole
from hallo3_core.weights import names

FRAMES = NEW_FRAMES_PER_CLIP  # per film: one clip
SQUARE = (SIZE[0], SIZE[0])
QUIET = 20  # the frame at which a voice stops, where it does


SCALE = 2.0  # of audio and text: the toy is best at it; the default, 3.5, suits the released weights
PLAIN = Settings(12, Guidance(Scales(audio=SCALE, text=SCALE)), DPMPP_2M)  # the demo's


@dataclass(frozen=True)
class Subject:
    """What a film shows: whose portrait, whose voice, which prompt. Numbers index held-out seeds."""

    person: int
    voice: int | None = None  # None: the person's own
    prompt: str | None = None  # None: the one that describes the person's film
    silence: bool = False  # from frame QUIET on
    frames: int = FRAMES
    square: bool = False  # the portrait, and so the film


@dataclass(frozen=True)
class Changes:
    """What differs from the program's normal run, besides its settings."""

    null_reference: bool = False  # the bank of the trained null instead of the portrait's
    null_face: bool = False  # a face embedding of zeros
    null_concat: bool = False  # nothing of the portrait or the motion frames in the concat latent
    framing: str = "auto"  # of square portraits: padded, or "native"
    fp8: str | None = None
    dtype: torch.dtype = torch.float32
    settings: Settings = field(default_factory=Settings)


@lru_cache(maxsize=256)
def truth(number: int, frames: int = FRAMES, square: bool = False) -> DrawnFilm:
    """A held-out film as it was drawn."""
    return draw_film(HELD_OUT[number], frames, SQUARE if square else SIZE)


def asked(number: int, moves: bool) -> Subject:
    """The person's own prompt, but for whether what is behind moves."""
    film = truth(number)
    return Subject(number, prompt=caption(film.person, replace(film.scene, moving=moves), phrasing=0))


def voice_of(subject: Subject) -> int:
    return subject.person if subject.voice is None else subject.voice


def recording(subject: Subject) -> Recording:
    """The film's audio; silence is the faint noise between the words of every recording in the drawn world."""
    samples = torch.from_numpy(truth(voice_of(subject), subject.frames).speech.samples)
    if subject.silence:
        first = QUIET * VOICE_RATE // FPS
        noise = torch.randn(len(samples) - first, generator=torch.Generator().manual_seed(subject.person))
        samples = torch.cat((samples[:first], 8e-4 * noise))
    return Recording(samples[None], VOICE_RATE, f"voice {voice_of(subject)}")


class Studio:
    """Makes films; every network is loaded once for each dtype and kind of fp8."""

    def __init__(self, release: Release, device: str = "cpu"):
        self._release, self._device = release, device
        self._networks: dict[tuple, Networks] = {}

    def networks(self, changes: Changes) -> Networks:
        key = (changes.dtype, changes.fp8)
        options = Options(settings=changes.settings, device=self._device, dtype=changes.dtype, fp8=changes.fp8)
        if key not in self._networks:
            self._networks[key] = Networks(self._release, options, keep=True)
        self._networks[key].options = options  # only the settings differ, and loading does not depend on them
        return self._networks[key]

    @torch.inference_mode()
    def film(self, subject: Subject, changes: Changes | None = None, seed: int | None = None) -> Tensor:
        """Makes a film's frames ``n h w 3``, uint8. The noise seed defaults to the person's number."""
        changes = changes or Changes()
        networks, film = self.networks(changes), truth(subject.person, subject.frames, subject.square)
        picture = torch.from_numpy(film.frames[0]).permute(2, 0, 1)[None].float() / 255
        size, mode = film_frame(None, changes.framing, networks.config, subject.square)
        framing = plan_framing(*picture.shape[-2:], *size, mode)
        prompt = film.caption if subject.prompt is None else subject.prompt
        scene = Scene(picture, f"person {subject.person}", framing, recording(subject), prompt)
        timeline = Timeline(subject.frames)
        encoded = encode_scene(scene, timeline, networks)
        if changes.null_face:
            with networks.part(names.FACE_PROJECTOR) as projector:
                nobody = projector(torch.zeros(1, EMBEDDING, device=self._device, dtype=changes.dtype))
            encoded = replace(encoded, face_tokens=nobody)
        if changes.null_reference:
            with networks.part(names.REFERENCE_NET) as reference_net:
                nothing = torch.zeros(1, 16, *(side // PIXELS for side in size), device=self._device)
                bank = reference_net(nothing.to(changes.dtype))
            encoded = replace(encoded, portrait=replace(encoded.portrait, bank=bank))
        conductor, number = Conductor(timeline, encoded.portrait), subject.person if seed is None else seed
        with networks.denoiser() as denoiser, networks.vae() as vae:
            run = prepare_run(
                denoiser,
                encoded.portrait,
                changes.settings,
                text=encoded.text,
                face_tokens=encoded.face_tokens,
                null_audio_tokens=encoded.null_audio_tokens,
                dtype=changes.dtype,
            )

            def make(clip: int, motion: Tensor | None) -> Clip:
                noise = SeededNoise(number, clip)
                concat = conductor.concat_latent(vae, motion, noise)
                if changes.null_concat:
                    concat = torch.zeros_like(concat)
                calls = ClipCalls(denoiser, run, concat, encoded.audio_tokens[clip])
                decoded = decode_whole(vae, sample_clip(calls, run.settings, concat, noise))
                return conductor.finish(decoded, clip, motion)

            return torch.cat(list(clip_chain(timeline.clips, make)))
