"""One model call in place of a whole film: the loss on a noised true film, under conditions that are right or wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hallo3_core.clips import FRAMES_PER_CLIP, LATENT_FRAMES, MOTION_FRAMES
from hallo3_core.inputs.audio import windows
from hallo3_core.inputs.image import plan_framing
from hallo3_core.inputs.recording import VOICE_RATE, Recording
from hallo3_core.pipeline.conditions import ClipCalls, prepare_run
from hallo3_core.pipeline.encoding import encode_portrait, encode_prompt
from hallo3_core.pipeline.networks import Networks
from hallo3_core.pipeline.scene import Scene
from hallo3_core.sampling.guidance import EVERYTHING
from hallo3_core.toy.world.films import HELD_OUT, DrawnFilm, draw_film
from hallo3_core.train.encoders import audio_features
from hallo3_core.vae.latents import encode
from hallo3_core.weights import names

FRAMES, START = 105, 3  # of a film, and where the clip begins in it: as in training


class Probe:
    """A held-out film with everything that conditions the denoiser on it."""

    @torch.inference_mode()
    def __init__(self, networks: Networks, number: int):
        self.networks, self.film = networks, draw_film(HELD_OUT[number], FRAMES)
        film, (height, width) = self.film, self.film.frames.shape[1:3]
        picture = torch.from_numpy(film.frames[0]).permute(2, 0, 1)[None].float() / 255
        recording = Recording(torch.from_numpy(film.speech.samples)[None], VOICE_RATE, "drawn")
        scene = Scene(picture, "drawn", plan_framing(height, width, height, width), recording, film.caption)
        self.text = encode_prompt(film.caption, networks)
        self.portrait, self.face = encode_portrait(scene, networks)
        with networks.wav2vec() as wav2vec:
            self.heard = audio_features(recording, wav2vec)
        self.clip = self._encoded(pixels(film))
        self.noise = torch.randn(self.clip.shape, generator=torch.Generator().manual_seed(number))

    @torch.inference_mode()
    def mouth(self) -> float:
        """Mean square by which the clip's latent changes when the mouth is drawn as it is on average."""
        mean = np.repeat(self.film.mouth.mean(0, keepdims=True), len(self.film.mouth), 0).astype(np.float32)
        rest = draw_film(self.film.seed, FRAMES, speech=replace(self.film.speech, mouth=mean))
        return float((self.clip - self._encoded(pixels(rest))).square().mean())

    def frames_heard(self) -> Tensor:
        """The frames ``49`` whose sound belongs to the clip's."""
        return torch.arange(FRAMES_PER_CLIP) + START

    @torch.inference_mode()
    def loss(self, step: int, heard: Tensor | None, motion: Tensor | None = None) -> float:
        """At a step of the run; heard: the frames ``49`` whose sound is used, None: the null; motion: frames
        ``1 3 2 h w`` in place of the clip's first."""
        with self.networks.part(names.AUDIO_PROJECTOR) as projector:
            silent = torch.zeros(1, FRAMES_PER_CLIP, *windows(self.heard, torch.zeros(1).long()).shape[1:])
            null = projector(silent)
            tokens = null if heard is None else projector(windows(self.heard, heard)[None])
        motion = pixels(self.film)[:, :, :MOTION_FRAMES] if motion is None else motion
        concat = self._encoded(torch.cat((self.portrait.pixels.transpose(0, 1)[None], motion), dim=2))
        concat = torch.cat((concat, concat.new_zeros(1, 16, LATENT_FRAMES - 1, *concat.shape[-2:])), dim=2)
        with self.networks.denoiser() as denoiser:
            run = prepare_run(
                denoiser,
                self.portrait,
                self.networks.options.settings,
                text=self.text,
                face_tokens=self.face,
                null_audio_tokens=null,
            )
            a = run.schedule.wrapped[step]
            sigma = (1 - a * a) ** 0.5
            evaluate = ClipCalls(denoiser, run, concat, tokens)
            (velocity,) = evaluate(a * self.clip + sigma * self.noise, step, [EVERYTHING])
        return float((velocity - (a * self.noise - sigma * self.clip)).square().mean())

    def _encoded(self, frames: Tensor) -> Tensor:
        with self.networks.vae() as vae:
            return encode(vae, frames)


def pixels(film: DrawnFilm) -> Tensor:
    """The clip's frames ``1 3 49 h w`` in -1..1."""
    frames = np.ascontiguousarray(film.frames[START : START + FRAMES_PER_CLIP])
    return torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
