"""Benchmark sizes, and networks and inputs of these sizes from seeded noise, made directly on a device."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hallo3_core.clips import FRAMES_PER_CLIP
from hallo3_core.model.attention import Attention, scaled_dot_product
from hallo3_core.model.config import AudioProjectorConfig, FaceProjectorConfig, Grid, TransformerConfig
from hallo3_core.model.denoiser import Conditions, Denoiser
from hallo3_core.model.projectors import AudioProjector, FaceProjector
from hallo3_core.model.reference_net import ReferenceNet
from hallo3_core.model.scaled import put_in_place
from hallo3_core.pipeline.conditions import stack
from hallo3_core.toy.noise_vae import tiny_vae_tensors
from hallo3_core.vae.autoencoder import VaeConfig, VideoVae, load_vae
from hallo3_core.weights.fp8 import FLOAT8, SCALE, is_rounded, quantise

from .measuring import FAKE

WINDOW = (5, 12, 768)  # wav2vec frames per window, layers, width


@dataclass(frozen=True)
class Preset:
    """Sizes of the networks; the latent is twice the grid's rows and columns."""

    denoiser: TransformerConfig
    audio: AudioProjectorConfig
    face: FaceProjectorConfig
    vae: VaeConfig


def _preset(
    hidden: int, heads: int, layers: int, grid: Grid, text: int, tokens: int, widths: tuple[int, int], vae: VaeConfig
):
    face, audio = widths
    window = math.prod(WINDOW)
    return Preset(
        TransformerConfig(
            hidden=hidden,
            heads=heads,
            layers=layers,
            mlp=4 * hidden,
            time=min(512, hidden),
            text_width=4096 if hidden > 64 else 64,
            text_tokens=text,
            grid=grid,
            channels=16,
            patch=2,
            face=face,
            audio=audio,
        ),
        AudioProjectorConfig(inputs=window, inner=min(512, hidden), tokens=tokens, width=audio),
        FaceProjectorConfig(embedding=512, tokens=4, width=face),
        vae,
    )


PRESETS = {
    "smallest": _preset(64, 4, 3, Grid(13, 1, 2), 16, 4, (56, 48), VaeConfig((32, 32, 64, 32), 1)),
    "toy": _preset(64, 4, 3, Grid(13, 4, 6), 16, 4, (56, 48), VaeConfig((32, 32, 64, 32), 1)),
    "cpu-medium": _preset(768, 12, 4, Grid(13, 15, 22), 226, 32, (1024, 768), VaeConfig((32, 64, 64, 128), 3)),
    "full": _preset(3072, 48, 42, Grid(13, 30, 45), 226, 32, (1024, 768), VaeConfig()),
}


@dataclass(frozen=True)
class Networks:
    """The networks that the original runs at every step."""

    denoiser: Denoiser
    audio: AudioProjector
    face: FaceProjector


@dataclass(frozen=True)
class Inputs:
    """The raw inputs of a clip: latent and concat ``1 16 t h w``, text ``1 m w``, audio windows ``1 f 5 l d``, face
    embedding ``1 512``, reference bank ``1 n D`` for each layer."""

    latent: Tensor
    concat: Tensor
    text: Tensor
    audio: Tensor
    face: Tensor
    bank: list[Tensor]


def build_networks(
    preset: Preset,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    in_fp8: bool = False,
    attention: Attention = scaled_dot_product,
) -> Networks:
    """Makes networks with random weights. With `in_fp8` the blocks' matrices are float8 with a scale, as written by
    `convert --dtype fp8`."""
    denoiser = build_denoiser(preset, device, dtype, in_fp8=in_fp8, attention=attention)
    return Networks(denoiser, *build_projectors(preset, device, dtype))


def build_denoiser(
    preset: Preset,
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    in_fp8: bool = False,
    attention: Attention = scaled_dot_product,
) -> Denoiser:
    """Makes a denoiser; see `build_networks`."""
    denoiser = Denoiser(preset.denoiser, attention=attention, device="meta", dtype=dtype)
    if in_fp8:
        for name in [name for name, _ in denoiser.named_parameters() if is_rounded(name)]:
            put_in_place(denoiser, name.removesuffix(".weight"))
    return draw_weights(denoiser, device)


def twin(denoiser: Denoiser) -> Denoiser:
    """A second denoiser that shares the weights; changing its layers leaves the first unchanged."""
    other = Denoiser(denoiser.config, attention=denoiser.blocks[0].attention, device="meta")
    other.load_state_dict(denoiser.state_dict(), assign=True)
    return other.requires_grad_(False).eval()


def round_to_fp8(denoiser: Denoiser) -> Denoiser:
    """A twin with its blocks' matrices rounded to fp8."""
    rounded = twin(denoiser)
    for name in [name for name, _ in denoiser.named_parameters() if is_rounded(name)]:
        layer = name.removesuffix(".weight")
        bias = rounded.get_submodule(layer).bias
        put_in_place(rounded, layer)
        scaled = rounded.get_submodule(layer)
        scaled.weight.data, scaled.weight_scale.data = quantise(denoiser.get_parameter(name), name)
        scaled.bias = bias
    return rounded


def build_projectors(
    preset: Preset, device: torch.device | str, dtype: torch.dtype
) -> tuple[AudioProjector, FaceProjector]:
    """Random weights."""
    audio, face = (
        AudioProjector(preset.audio, device="meta", dtype=dtype),
        FaceProjector(preset.face, device="meta", dtype=dtype),
    )
    return draw_weights(audio, device), draw_weights(face, device)


def build_reference_net(
    preset: Preset, device: torch.device | str, dtype: torch.dtype, attention: Attention = scaled_dot_product
) -> ReferenceNet:
    """Random weights."""
    config = replace(preset.denoiser, face=None, audio=None)
    return draw_weights(ReferenceNet(config, attention=attention, device="meta", dtype=dtype), device)


def build_vae(preset: Preset, device: torch.device | str, dtype: torch.dtype) -> VideoVae:
    """Random weights."""
    return load_vae(tiny_vae_tensors(0, preset.vae), device=device, dtype=dtype)


def seeded(device: torch.device | str, seed: int) -> torch.Generator | None:
    """A generator on the device; None on the fake device, where tensors have no values."""
    return None if torch.device(device).type == FAKE else torch.Generator(device).manual_seed(seed)


def draw_weights(module: nn.Module, device: torch.device | str, seed: int = 0) -> nn.Module:
    """Fills weights with noise that preserves a signal's magnitude, norms near one; on the device, one tensor at a
    time."""
    generator = seeded(device, seed)
    module.to_empty(device=device)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(False)
        leaf = name.rpartition(".")[2]
        norm = "norm" in name
        spread = 0.1 if norm else 0.3 if leaf.endswith("positions") else 0.02 if leaf == "bias" else None
        if leaf == SCALE:
            parameter.fill_(1.0)
            continue
        spread = spread or parameter[0].numel() ** -0.5
        drawn = parameter if parameter.dtype != FLOAT8 else torch.empty_like(parameter, dtype=torch.bfloat16)
        drawn.uniform_(-spread * 3**0.5, spread * 3**0.5, generator=generator)
        if norm and leaf == "weight":
            drawn.add_(1)
        if drawn is not parameter:
            parameter.copy_(drawn)
    return module.eval()


def draw_inputs(
    preset: Preset, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 1
) -> Inputs:
    """Unit normal inputs of one clip for the trained grid."""
    generator = seeded(device, seed)
    config, grid = preset.denoiser, preset.denoiser.grid

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    latent = (1, config.channels, grid.frames, config.patch * grid.rows, config.patch * grid.columns)
    return Inputs(
        latent=draw(*latent),
        concat=draw(*latent),
        text=draw(1, config.text_tokens, config.text_width),
        audio=draw(1, FRAMES_PER_CLIP, *WINDOW),
        face=draw(1, preset.face.embedding),
        bank=[draw(1, grid.tokens_per_frame, config.hidden) for _ in range(config.layers)],
    )


def conditions_of(networks: Networks, calls: list[Inputs]) -> Conditions:
    """The conditions of a batch of model calls: text and audio of each, portrait and face of the first for all."""
    denoiser, first = networks.denoiser, calls[0]
    return Conditions(
        text=denoiser.embed_text(torch.cat([inputs.text for inputs in calls])),
        reference=denoiser.reference_keys_values(first.bank),
        face=denoiser.face_keys_values(networks.face(first.face)),
        audio=stack([denoiser.audio_keys_values(networks.audio(inputs.audio)) for inputs in calls]),
    )
