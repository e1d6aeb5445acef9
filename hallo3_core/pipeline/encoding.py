"""Runs the encoders on a scene, one after another: text, audio and face tokens, and the portrait's reference bank."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..clips import Timeline
from ..errors import InputError
from ..inputs.audio import AudioFeatures, check_width, clip_audio, encode_audio
from ..inputs.face import embed_face, toy_advice
from ..inputs.portrait import Portrait, framed, prepare_portrait
from ..inputs.recording import Recording
from ..inputs.vocals import voice_of
from ..weights import names
from .networks import TEXT_ENCODER, WAV2VEC, Networks
from .scene import Scene

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class EncodedScene:
    """A scene as the denoiser reads it. None for what it does not read.

    text: ``1 m w``. audio_tokens: ``1 t n c`` of each clip; null_audio_tokens: of silence. face_tokens: ``1 n c``.
    """

    text: Tensor
    portrait: Portrait
    face_tokens: Tensor | None
    audio_tokens: Sequence[Tensor | None]
    null_audio_tokens: Tensor | None

    def without_bank(self) -> EncodedScene:
        """The same without the reference network's features, which are the largest part."""
        return replace(self, portrait=replace(self.portrait, bank=(), null_bank=None))


def encode_scene(scene: Scene, timeline: Timeline, networks: Networks) -> EncodedScene:
    """Runs the encoders: text, sound, portrait."""
    text = encode_prompt(scene.prompt, networks)
    audio_tokens, null_audio_tokens = encode_sound(scene.recording, timeline, networks)
    portrait, face_tokens = encode_portrait(scene, networks)
    return EncodedScene(text, portrait, face_tokens, audio_tokens, null_audio_tokens)


def encode_prompt(prompt: str, networks: Networks) -> Tensor:
    """Encodes the prompt: ``1 m w``, on the CPU."""

    def encode() -> Tensor:
        with networks.text_encoder() as encoder:
            return encoder.encode(prompt).cpu()

    text = networks.retrying("encoding the prompt", TEXT_ENCODER, encode)
    config = networks.config
    if tuple(text.shape[1:]) != (config.text_tokens, config.text_width):
        raise InputError(
            f"{networks.release.text_folder}: gives text of {text.shape[1]} x {text.shape[2]}, the denoiser reads "
            f"{config.text_tokens} x {config.text_width}. Use the T5 encoder that came with the denoiser."
        )
    return text


def encode_sound(
    recording: Recording, timeline: Timeline, networks: Networks
) -> tuple[list[Tensor | None], Tensor | None]:
    """Audio tokens ``1 t n c`` of every clip and of the null (silence); None if the denoiser reads no audio."""
    if networks.config.reads.audio == "none":
        return [None] * timeline.clips, None
    return project_audio(encode_recording(recording, networks), timeline, networks)


def encode_recording(recording: Recording, networks: Networks) -> AudioFeatures:
    """wav2vec features of the whole recording, or of only its voice, on the CPU."""
    if networks.options.vocals:
        recording = voice_of(recording, networks.release.vocals_file)

    def encode() -> AudioFeatures:
        with networks.wav2vec() as wav2vec:
            return encode_audio(recording, wav2vec)

    return networks.retrying("encoding the recording", WAV2VEC, encode)


def project_audio(features: AudioFeatures, timeline: Timeline, networks: Networks) -> tuple[list[Tensor], Tensor]:
    """Audio tokens ``1 t n c`` of every clip and of the null (silence)."""
    options = networks.options

    def project_all() -> tuple[list[Tensor], Tensor]:
        with networks.part(names.AUDIO_PROJECTOR) as projector:
            check_width(features, projector.proj1.in_features, f"{networks.release.wav2vec_folder}: its wav2vec2")

            def project(windows: Tensor) -> Tensor:
                return projector(windows[None].to(options.device, options.dtype)).cpu()

            clips = [project(clip_audio(features, clip, timeline)) for clip in range(timeline.clips)]
            return clips, project(torch.zeros_like(clip_audio(features, 0)))

    return networks.retrying("projecting the recording", names.AUDIO_PROJECTOR, project_all)


def encode_portrait(scene: Scene, networks: Networks) -> tuple[Portrait, Tensor | None]:
    """The portrait's reference bank and face tokens. Skips those that the denoiser does not read."""
    options, conditioning = networks.options, networks.config.reads
    if conditioning.face == "none" and not conditioning.reference:
        return Portrait(framed(scene.picture, scene.framing), scene.framing, bank=None), None
    whole = options.face == "whole"
    with networks.face_analyser() as analyser:
        face, mask = embed_face(
            scene.picture[0],
            analyser,
            "largest" if whole else options.face,
            "whole image" if whole else "error",
            mask_from=options.face_mask,
            name=scene.name,
        )
        if analyser.is_toy:
            log.warning("%s: %s", scene.name, toy_advice())
    with_null = any(not branch.reference for branch in options.settings.branches())
    place = dict(device=options.device, dtype=options.dtype)
    face_tokens = None
    if conditioning.face != "none":
        with networks.part(names.FACE_PROJECTOR) as projector:
            face_tokens = projector(face.embedding[None].to(**place))
    if not conditioning.reference:
        pixels = framed(scene.picture, scene.framing).to(**place)
        return Portrait(pixels, scene.framing, bank=None), face_tokens

    def prepare() -> Portrait:
        with networks.vae() as vae, networks.part(names.REFERENCE_NET) as reference_net:
            return prepare_portrait(
                scene.picture, mask.float(), scene.framing, vae, reference_net, with_null=with_null, **place
            )

    return networks.retrying("encoding the portrait", names.REFERENCE_NET, prepare), face_tokens
