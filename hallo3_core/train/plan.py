"""What a run would train and how much memory it would take, computed without weights: a forward pass on the meta device
counts the tensors that autograd saves for the backward pass. The layers are alike, so a few of them are run."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from math import prod
from pathlib import Path

import torch

from ..clips import LATENT_FRAMES
from ..errors import InputError
from ..model.config import AudioProjectorConfig, FaceProjectorConfig, Grid, Shape, TransformerConfig
from ..model.denoiser import Denoiser
from ..model.hallo3 import Hallo3
from ..model.projectors import AudioProjector, FaceProjector
from ..model.reference_net import ReferenceNet
from ..vae.autoencoder import PIXELS, VaeConfig, build_vae
from ..weights import names
from ..weights.parts import Parts, sort_official, transformer_config
from .config import Memory, TrainingConfig, Watch
from .frozen_fp8 import round_frozen
from .kept import Kept, flash_attention, kept_for_backward
from .lora import add_lora
from .networks import official_names, parts
from .start import read_start
from .trainable import RULES, Trainable, trainable, transformer_shapes

RELEASED = dict(text_width=4096, audio_inputs=5 * 12 * 768, face=512)
log = logging.getLogger(__name__)
BYTES = {"bf16": 2, "fp32": 4}
MEASURED = (4, 5)  # layers of the networks that run: enough for a first, a last and alike ones between
# Switches of the section memory, in the order in which `fit` tries them: fewest first.
LADDER = (
    Memory(),
    Memory(checkpoint_layers=True),
    Memory(checkpoint_layers=True, fp8=True),
    Memory(checkpoint_layers=True, fp8=True, optimiser="adamw8bit"),
    Memory(checkpoint_layers=True, fp8=True, optimiser="adamw8bit", offload_activations=True),
)


@dataclass(frozen=True)
class Plan:
    """What trains, and bytes of memory by purpose."""

    mode: str
    trains: Trainable
    memory: Mapping[str, int]
    switches: Memory

    @property
    def total(self) -> int:
        return sum(self.memory.values())

    def lines(self) -> Iterator[str]:
        """The plan as lines of text."""
        yield f"{self.mode}: trains {self.trains.count:,} parameters in {len(self.trains.shapes)} tensors"
        for family, (tensors, count) in families(self.trains.shapes).items():
            yield f"  {family}: {tensors} tensors, {count:,}"
        if self.trains.without_gradient:
            yield f"  of these {self.trains.without_gradient_count:,} can get no gradient, since nothing reads them:"
            yield from (f"    {name}" for name in self.trains.without_gradient)
        chosen = [f"{k}={v}" for k, v in vars(self.switches).items() if v not in (False, None, "adamw")]
        yield f"memory of one GPU ({', '.join(chosen) or 'no switch of the section memory'}):"
        for what, count in self.memory.items():
            yield f"  {count / 1e9:8.2f} GB  {what}"
        yield f"  {self.total / 1e9:8.2f} GB  together, beside what kernels use meanwhile"


def plan(config: TrainingConfig) -> Plan:
    """The plan of a run; for mode full see `plans`.

    Raises:
        InputError: the initial weights cannot be read, or nothing in them trains.
    """
    only = Memory(micro_batch=config.memory.micro_batch)
    counts = _counts(replace(config, memory=only, watch=Watch(), output=Path()))
    return Plan(config.mode, counts.trains, _memory(config, counts), config.memory)


def plans(config: TrainingConfig) -> list[Plan]:
    """One plan per phase."""
    modes = ("identity", "audio") if config.mode == "full" else (config.mode,)
    return [plan(replace(config, mode=mode)) for mode in modes]


def fit(config: TrainingConfig, gigabytes: float) -> TrainingConfig:
    """The configuration with the fewest memory switches on that fits into this much memory.

    Raises:
        InputError: no combination fits.
    """
    needed = []
    for memory in LADDER:
        found = replace(config, memory=replace(memory, micro_batch=1))
        needed.append(max(each.total for each in plans(found)) / 1e9)
        if needed[-1] <= gigabytes:
            return found
    raise InputError(
        f"--fit {gigabytes:g}: mode {config.mode} needs {min(needed):.1f} GB with every switch of the section memory. "
        "Choose mode lora, smaller data.size, or several GPUs."
    )


def families(shapes: Mapping[str, Shape]) -> dict[str, tuple[int, int]]:
    """Groups names without their layer numbers; counts the tensors and parameters of each."""
    found: dict[str, tuple[int, int]] = {}
    for name, shape in shapes.items():
        family = re.sub(r"(?<=layers\.|blocks\.)\d+", "*", name)
        tensors, count = found.get(family, (0, 0))
        found[family] = (tensors + 1, count + prod(shape))
    return found


def _sizes(config: TrainingConfig) -> tuple[TransformerConfig, FaceProjectorConfig, AudioProjectorConfig]:
    """Sizes of the initial weights if there are any, else of the section network with the released encoders."""
    n, (height, width) = config.network, config.data.size
    grid = Grid(LATENT_FRAMES, height // (2 * PIXELS), width // (2 * PIXELS))
    found = Parts()
    start = config.start
    if start is not None and not start.exists():
        log.warning("%s: not there; the sizes are those of the section network", start)
        start = None
    if start is not None:
        found = sort_official(dict(read_start([start]).tensors))
        sizes = transformer_config(found, names.DENOISER, str(start))
    else:
        sizes = TransformerConfig(
            hidden=n.hidden,
            heads=n.heads,
            layers=n.layers,
            mlp=4 * n.hidden,
            time=n.time,
            text_width=RELEASED["text_width"],
            text_tokens=n.text_tokens,
            grid=grid,
            channels=16,
            patch=2,
            face=None,
            audio=None,
            conditioning=replace(config.conditioning, face="none", audio="none"),
        )
    with_face = config.mode != "base" and config.conditioning.face != "none"
    with_audio = config.mode not in ("base", "identity") and config.conditioning.audio != "none"
    sizes = replace(
        sizes,
        face=(sizes.face or n.face_width) if with_face else None,
        audio=(sizes.audio or n.audio_width) if with_audio else None,
        conditioning=config.conditioning,
    )
    face = FaceProjectorConfig(RELEASED["face"], n.face_tokens, sizes.face or n.face_width)
    audio = AudioProjectorConfig(RELEASED["audio_inputs"], n.audio_inner, n.audio_tokens, sizes.audio or n.audio_width)
    for part, kind in ((names.FACE_PROJECTOR, FaceProjectorConfig), (names.AUDIO_PROJECTOR, AudioProjectorConfig)):
        if part in found.tensors:
            own = kind.from_shapes(found.shapes(part))
            face, audio = (own, audio) if kind is FaceProjectorConfig else (face, own)
    return sizes, face, audio


def _networks(config: TrainingConfig, sizes: TransformerConfig, face, audio) -> Hallo3:
    place = dict(device="meta", dtype=_dtype(config))
    whole = dict(attention=flash_attention, **place)
    plain = replace(sizes, face=None, audio=None)
    has_reference = config.mode != "base" and config.conditioning.reference
    return Hallo3(
        Denoiser(sizes, **whole),
        ReferenceNet(plain, **whole) if has_reference else None,
        FaceProjector(face, **place) if sizes.face else None,
        AudioProjector(audio, **place) if sizes.audio else None,
    ).requires_grad_(False)


def _dtype(config: TrainingConfig) -> torch.dtype:
    return torch.bfloat16 if config.precision == "bf16" else torch.float32


@dataclass(frozen=True)
class Counts:
    """Figures that the memory of any combination of switches is computed from: what trains, how many of its parameters
    get a gradient, bytes of all weights, also with frozen matrices in fp8, and what autograd saves."""

    trains: Trainable
    learns: int
    weights: int
    weights_fp8: int
    kept: Kept


@lru_cache(8)
def _counts(config: TrainingConfig) -> Counts:
    sizes, face, audio = _sizes(config)
    networks, ours = _trained(config, sizes, face, audio)
    if config.mode == "lora":
        found = Trainable({n: tuple(p.shape) for n, p in networks.named_parameters() if n in ours}, ())
    else:
        has = dict(parts(networks))
        face_has, audio_has = names.FACE_PROJECTOR in has, names.AUDIO_PROJECTOR in has
        shapes = transformer_shapes(sizes, face if face_has else None, audio if audio_has else None)
        found = trainable(shapes, config.trains or RULES[config.mode])
    if not ours:
        raise InputError(f"mode {config.mode} with these rules trains nothing: look at the section trains.")
    learns = sum(p.numel() for name, p in networks.named_parameters() if name in ours)
    weights = _bytes(networks)
    round_frozen(networks, ours)
    if sizes.layers <= MEASURED[1]:
        kept = kept_for_backward(config, _trained(config, sizes, face, audio)[0])
    else:
        few, more = (
            kept_for_backward(config, _trained(config, replace(sizes, layers=n), face, audio)[0]) for n in MEASURED
        )
        kept = _extrapolated(few, more, sizes.layers)
    return Counts(found, learns, weights, _bytes(networks), kept)


def _trained(config: TrainingConfig, sizes: TransformerConfig, face, audio) -> tuple[Hallo3, set[str]]:
    """The networks on the meta device and the names of what trains; nothing else requires a gradient."""
    networks = _networks(config, sizes, face, audio)
    if config.mode == "lora":
        ours = add_lora(networks, config.lora, config.seed)
        networks.to(_dtype(config))
    else:
        rule = config.trains or RULES[config.mode]
        ours = {name for name, theirs in official_names(networks).items() if rule.trains(theirs)}
    for name, parameter in networks.named_parameters():
        parameter.requires_grad_(name in ours)
    return networks, ours


def _extrapolated(few: Kept, more: Kept, layers: int) -> Kept:
    """Layers are alike: each beyond those of `more` adds what the last of `more` adds to `few`."""
    beyond = layers - MEASURED[1]
    return Kept(*(b + beyond * (b - a) for a, b in zip(few, more, strict=True)))


def _bytes(networks: Hallo3) -> int:
    return sum(p.numel() * p.element_size() for p in networks.parameters())


def _memory(config: TrainingConfig, counts: Counts) -> dict[str, int]:
    memory, count = config.memory, counts.learns
    found = {
        "weights of the networks": counts.weights_fp8 if memory.fp8 else counts.weights,
        "the VAE's encoder": _encoder_parameters() * BYTES[config.precision],
    }
    if config.precision == "bf16":
        found["float32 copies of what trains"] = 4 * count
    found["gradients"] = 4 * count
    found["moments of AdamW"] = (2 if memory.optimiser == "adamw8bit" else 8) * count
    if config.updating.average:
        found["moving average"] = 4 * count
    if memory.offload_activations:
        found["activations of one layer, the others' in host memory"] = counts.kept.largest
    elif memory.checkpoint_layers:
        found["inputs of every layer, activations of one"] = counts.kept.boundaries + counts.kept.largest
    else:
        found["activations"] = counts.kept.total
    return found


@cache
def _encoder_parameters() -> int:
    return sum(p.numel() for p in build_vae(VaeConfig()).autoencoder.encoder.parameters())
