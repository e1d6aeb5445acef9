"""Runs a workflow in API form: our nodes as they are, core's nodes by small stand-ins that do what theirs are for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ASSETS = Path(__file__).parents[2] / "assets"


@dataclass(frozen=True)
class Made:
    """What CreateVideo joins, and what SaveVideo receives of any film: ``t h w 3`` in 0..1, and AUDIO."""

    images: Tensor
    audio: Mapping[str, Any] | None
    fps: float


@dataclass
class Runner:
    """`run` returns what the workflow saves and shows: the inputs of its last nodes, by their number.

    nodes: our classes by key; core: gives a module of the core, as the pack imported it.
    """

    nodes: Mapping[str, type]
    core: Callable[[str], Any]
    shown: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self, prompt: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        results: dict[str, tuple] = {}
        for number in prompt:
            self._result(number, prompt, results)
        return self.shown

    def _result(self, number: str, prompt: Mapping[str, Any], results: dict[str, tuple]) -> tuple:
        if number not in results:
            entry = prompt[number]
            inputs = {
                name: self._result(value[0], prompt, results)[value[1]] if isinstance(value, list) else value
                for name, value in entry["inputs"].items()
            }
            results[number] = self._execute(number, entry["class_type"], inputs)
        return results[number]

    def _execute(self, number: str, kind: str, inputs: dict[str, Any]) -> tuple:
        if kind in self.nodes:
            node = self.nodes[kind]
            found = getattr(node(), node.FUNCTION)(**inputs)
            return found["result"] if isinstance(found, dict) else found  # what is shown on the node stands beside it
        if kind in ("SaveVideo", "PreviewImage", "PreviewAudio"):
            shown = {name: self._film(value) if kind == "SaveVideo" else value for name, value in inputs.items()}
            self.shown[number] = {"kind": kind, **shown}
            return tuple(inputs.values())
        return getattr(self, f"_{kind}")(**inputs)

    def _film(self, value: Any) -> Any:
        """A film that a node wrote to a file, read back; anything else as it is."""
        if not hasattr(value, "get_stream_source"):
            return value
        frames, fps, sound = self.core("film.writer").read_film(value.get_stream_source())
        audio = sound and {"waveform": sound.waveform[None], "sample_rate": sound.rate}
        return Made(frames / 255, audio, float(fps))

    def _RecordAudio(self, audio: str) -> tuple:
        """What was spoken into the microphone: the sample."""
        sound = self.core("inputs.recording").read_recording(ASSETS / "speech.flac")
        return ({"waveform": sound.waveform[None], "sample_rate": sound.rate},)

    def _CLIPTextEncode(self, clip, text: str) -> tuple:
        return (clip.encode_from_tokens_scheduled(clip.tokenize(text)),)

    def _VAEDecode(self, vae, samples) -> tuple:
        return (vae.decode(samples["samples"]).flatten(0, 1),)

    def _CreateVideo(self, images, fps: float, audio=None, bit_depth: int = 8) -> tuple:
        return (Made(images, audio, fps),)

    def _GetVideoComponents(self, video) -> tuple:
        film = self._film(video)
        return film.images, film.audio, film.fps, 8, "auto"

    def _RandomNoise(self, noise_seed: int) -> tuple:
        return (noise_seed,)

    def _KSamplerSelect(self, sampler_name: str) -> tuple:
        return (euler,)

    def _SamplerCustomAdvanced(self, noise, guider, sampler, sigmas, latent_image) -> tuple:
        latent = latent_image["samples"]
        drawn = torch.randn(latent.shape, generator=torch.Generator().manual_seed(noise))
        found = {"samples": guider.sample(drawn, latent, sampler, sigmas, disable_pbar=True, seed=noise)}
        return found, found


class euler:
    """The plainest of core's samplers, as a SAMPLER."""

    @staticmethod
    def sample(model, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False):
        x = noise * sigmas[0]
        for now, after in zip(sigmas[:-1], sigmas[1:], strict=True):
            clean = model(x, now.expand(len(x)), **extra_args)
            x = x + (x - clean) / now * (after - now)
        return x
