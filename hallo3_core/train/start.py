"""Initial weights of a run, from the release, an earlier run or nothing, and the networks built from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..film.fingerprint import spread
from ..model.conditioning import Conditioning
from ..model.config import AudioProjectorConfig, FaceProjectorConfig, TransformerConfig
from ..model.denoiser import Denoiser
from ..model.hallo3 import Hallo3
from ..model.projectors import AudioProjector, FaceProjector
from ..model.reference_net import ReferenceNet
from ..weights import names
from ..weights.parts import Parts, sort_converted, sort_official, transformer_config
from ..weights.quantised import multiplied_out
from ..weights.shards import model_file, read_model
from . import diffusers_names
from .config import NetworkSizes
from .initial import initial
from .networks import rotary_tensors

OWN, OTHER = (next(p for p, part in names.PREFIXES.items() if part == n) for n in (names.DENOISER, names.REFERENCE_NET))
AUDIO_WORDS, FACE_WORDS = ("audio_",), ("face_",)


@dataclass(frozen=True)
class Start:
    """Tensors by official name, possibly memory-mapped; `label` is their name in messages."""

    tensors: Mapping[str, Tensor]
    label: str = "nothing"

    def has(self, words: tuple[str, ...]) -> bool:
        return any(word in name for name in self.tensors for word in words)

    def denoiser(self) -> dict[str, Tensor]:
        """The denoiser's tensors, in our names."""
        own = {name: tensor for name, tensor in self.tensors.items() if name.startswith(OWN)}
        return sort_official(own).tensors[names.DENOISER]

    @property
    def identity(self) -> str:
        """A hash of some values of each tensor, equal for equal tensors, without reading all 29 GB."""
        total = hashlib.sha256()
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            total.update(f"{name} {list(tensor.shape)} {spread(tensor, 16).tolist()}".encode())
        return total.hexdigest()


def read_start(paths: list[Path]) -> Start:
    """Reads the transformers from one file, or from the files that `convert` made of it: in the release's names, ours
    or diffusers'; a folder or one of several shards stands for the model.

    Raises:
        InputError: a file is not readable or is not a transformer of this kind.
    """
    label = str(paths[0])
    tensors: dict[str, Tensor] = {}
    for path in map(diffusers_names.transformer_file, paths):
        found = multiplied_out(read_model(path))
        if diffusers_names.is_diffusers(found):
            found = diffusers_names.officially_named(found, model_file(path))
        elif not any(name.startswith(tuple(names.PREFIXES)) for name in found):
            found = _officially_named(found)
        tensors |= found
    if f"{OWN}transformer.layers.0.attention.query_key_value.weight" not in tensors:
        raise InputError(
            f"{label}: holds no CogVideoX transformer in the release's names or diffusers' (it begins with "
            f"{next(iter(tensors), 'nothing')}). Choose the release's transformer file, or the result of an earlier "
            "run."
        )
    return Start({name: t for name, t in tensors.items() if name.startswith(tuple(names.PREFIXES))}, label)


def networks_of(
    start: Start, mode: str, network: NetworkSizes, conditioning: Conditioning, inputs: InputSizes, maker: Maker
) -> Hallo3:
    """Builds the networks that a mode trains and runs.

    base: the denoiser alone; identity: with a reference network (a copy of the denoiser's transformer if the start has
    none) and face modules; audio: with audio modules too. Missing parts are initialised as in the original.

    Raises:
        InputError: the mode cannot continue from this start.
    """
    if mode == "base":
        config = _scratch_config(network, conditioning, inputs)
        if start.tensors:
            parts = _parts(start, keep=lambda name: name.startswith(OWN) and not _names(name, AUDIO_WORDS + FACE_WORDS))
            parts.conditioning = conditioning
            config = transformer_config(parts, names.DENOISER, start.label)
            return Hallo3(maker.made(Denoiser(config, device="meta"), parts.tensors[names.DENOISER]))
        return Hallo3(maker.made(Denoiser(config, device="meta"), {}, "from nothing"))
    if not start.tensors:
        raise InputError(f"mode {mode} needs a start: name a transformer file in start, or a release.")
    with_audio, with_face = mode != "identity", conditioning.face != "none"
    if mode == "lora":
        with_audio = conditioning.audio != "none"
    if with_audio and conditioning.audio == "none":
        raise InputError(f"mode {mode} trains how sound is read, but conditioning.audio is none. Choose mode identity.")
    if mode == "audio" and start.has(AUDIO_WORDS):
        raise InputError(f"{start.label}: has audio modules already. Choose mode speech, which goes on from them.")
    if mode in ("audio", "speech") and with_face and not start.has(FACE_WORDS):
        raise InputError(f"{start.label}: has no face modules, which mode identity trains. Start from its result.")
    if mode in ("speech", "lora") and with_audio and not start.has(AUDIO_WORDS):
        raise InputError(f"{start.label}: has no audio modules. Choose mode audio, which makes them.")
    if conditioning.reference:
        start = with_reference(start)
    parts = _parts(start, keep=lambda name: with_audio or not _names(name, AUDIO_WORDS))
    found = transformer_config(parts, names.DENOISER, start.label)
    config = replace(
        found,
        face=(found.face or network.face_width) if with_face else None,
        audio=(found.audio or network.audio_width) if with_audio else None,
        conditioning=_agreed(found, conditioning, start.label),
    )
    made = [maker.made(Denoiser(config, device="meta"), parts.tensors[names.DENOISER]), None, None]
    if conditioning.reference:
        plain = replace(config, face=None, audio=None)
        made[1] = maker.made(ReferenceNet(plain, device="meta"), parts.tensors[names.REFERENCE_NET])
    if with_face:
        face = FaceProjectorConfig(inputs.face, network.face_tokens, config.face)
        made[2] = _projector(FaceProjector, face, parts, names.FACE_PROJECTOR, maker)
    if with_audio:
        audio = AudioProjectorConfig(inputs.audio, network.audio_inner, network.audio_tokens, config.audio)
        made.append(_projector(AudioProjector, audio, parts, names.AUDIO_PROJECTOR, maker))
    return Hallo3(*made)


@dataclass(frozen=True)
class Maker:
    """Fills networks tensor by tensor, from the start or newly initialised, with cast and move to the device."""

    network: NetworkSizes
    generator: torch.Generator
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    def made(self, module: nn.Module, tensors: Mapping[str, Tensor], kind: str | None = None) -> nn.Module:
        """`kind` is how new parameters are initialised (see `initial`); None: as set in the section network.

        Raises:
            InputError: a tensor has the wrong shape.
        """
        for name, parameter in list(module.named_parameters()):
            shape = tuple(parameter.shape)
            if name not in tensors:
                value = initial(name, shape, kind or self.network.start, self.network.layers, self.generator)
            elif tuple(tensors[name].shape) == shape:
                value = tensors[name]
            else:
                raise InputError(
                    f"start: {name} has shape {list(tensors[name].shape)}, expected {list(shape)}: its sizes are not "
                    "those of the encoders. Use the release that it belongs to."
                )
            owner, _, leaf = name.rpartition(".")
            value = value.to(self.device, self.dtype, copy=True)
            setattr(module.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
        return module


@dataclass(frozen=True)
class InputSizes:
    """Sizes of the encoders' outputs: text ``tokens width``; values per audio window and per face embedding; latent
    frames, rows and columns of tokens; channels."""

    text: tuple[int, int]
    audio: int
    face: int
    grid: tuple[int, int, int]
    channels: int


def with_reference(start: Start) -> Start:
    """Adds a reference network, a copy of the denoiser's transformer, if the start has none."""
    if any(name.startswith(OTHER) for name in start.tensors):
        return start
    copied = {
        OTHER + name.removeprefix(OWN): tensor
        for name, tensor in start.tensors.items()
        if name.startswith(OWN) and not _names(name, AUDIO_WORDS + FACE_WORDS)
    }
    return replace(start, tensors={**start.tensors, **copied})


def _agreed(found: TransformerConfig, wanted: Conditioning, label: str) -> Conditioning:
    """Returns the wanted conditioning if the start's modules match it.

    Raises:
        InputError: they do not.
    """
    for name in ("face", "audio"):
        kind, asked = getattr(found.reads, name), getattr(wanted, name)
        if kind not in ("none", asked):
            raise InputError(
                f"{label}: reads its {name} by {kind}, but conditioning.{name} is {asked}. Set it to {kind}, or start "
                f"from weights without {name}."
            )
    return wanted


def _scratch_config(network: NetworkSizes, conditioning: Conditioning, inputs: InputSizes) -> TransformerConfig:
    from ..model.config import Grid

    return TransformerConfig(
        hidden=network.hidden,
        heads=network.heads,
        layers=network.layers,
        mlp=4 * network.hidden,
        time=network.time,
        text_width=inputs.text[1],
        text_tokens=inputs.text[0],
        grid=Grid(*inputs.grid),
        channels=inputs.channels,
        patch=2,
        face=None,
        audio=None,
        conditioning=replace(conditioning, face="none", audio="none"),
    )


def _parts(start: Start, keep) -> Parts:
    return sort_official({name: tensor for name, tensor in start.tensors.items() if keep(name)})


def _projector(kind, config, parts: Parts, part: str, maker: Maker) -> nn.Module:
    tensors = parts.tensors.get(part, {})
    if tensors:
        config = type(config).from_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    return maker.made(kind(config, device="meta"), tensors, "projector")


def _officially_named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames a converted file's tensors to their official names and joins its learned tables."""
    parts = sort_converted(tensors)
    if not parts.tensors.keys() <= {names.DENOISER, names.REFERENCE_NET, names.FACE_PROJECTOR, names.AUDIO_PROJECTOR}:
        return dict(tensors)  # not a transformer file: the caller reports it
    found: dict[str, Tensor] = {}
    for part, own in parts.tensors.items():
        if part not in names.PREFIXES.values():
            official = names.official_names(part, 1)
            found |= {official[name]: tensor for name, tensor in own.items()}
            continue
        config = transformer_config(parts, part)
        official = names.official_names(part, config.layers)
        prefix = OWN if part == names.DENOISER else OTHER
        tables = (own["text_positions"], own["video_positions"].flatten(0, 2))
        found |= {prefix + name: table for name, table in rotary_tensors(config).items()}
        found |= {official[n]: t for n, t in own.items() if n in official and not n.endswith("_positions")}
        found[prefix + names.POSITIONS] = torch.cat(tables)[None]
    return found


def _names(name: str, words: tuple[str, ...]) -> bool:
    return any(word in name for word in words)
