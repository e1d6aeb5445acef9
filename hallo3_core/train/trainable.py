"""Which parameters train: the original's rules, by name in the release's file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from ..model.config import AudioProjectorConfig, FaceProjectorConfig, Shape, TransformerConfig
from ..model.denoiser import Denoiser
from ..model.projectors import AudioProjector, FaceProjector
from ..weights import names


@dataclass(frozen=True)
class Rule:
    """A parameter trains if its official name contains one of its network's words and no excluded word."""

    denoiser: tuple[str, ...] = ()
    reference_net: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()

    def trains(self, official: str) -> bool:
        for prefix, part in names.PREFIXES.items():
            if official.startswith(prefix):
                words = self.denoiser if part == names.DENOISER else self.reference_net
                name = official.removeprefix(prefix)
                return any(word in name for word in words) and not any(word in name for word in self.excluded)
        return False


EVERYTHING = ("",)
RULES = {
    "base": Rule(denoiser=EVERYTHING),
    "identity": Rule(denoiser=("face", "attention"), reference_net=("attention",), excluded=("audio",)),
    "audio": Rule(denoiser=("audio",)),
    "speech": Rule(denoiser=("audio",)),
}


@dataclass(frozen=True)
class Trainable:
    """The trained tensors: shapes by official name, and the names of those that never get a gradient."""

    shapes: Mapping[str, Shape]
    without_gradient: tuple[str, ...]

    @property
    def count(self) -> int:
        return sum(map(prod, self.shapes.values()))

    @property
    def without_gradient_count(self) -> int:
        return sum(prod(self.shapes[name]) for name in self.without_gradient)


def trainable(shapes: Mapping[str, Shape], rule: Rule) -> Trainable:
    """Selects the release's tensors that train. The bank holds the inputs of the reference network's layers, so its
    last layer's output is never used."""
    found = {name: shape for name, shape in shapes.items() if rule.trains(name) and name not in _made(shapes)}
    return Trainable(found, tuple(name for name in found if _is_unseen(name, shapes)))


def decays(shape: Shape) -> bool:
    """Whether weight decay applies to a tensor: yes for matrices and kernels, no for biases and norms."""
    return len(shape) > 1


def transformer_shapes(
    config: TransformerConfig, face: FaceProjectorConfig | None, audio: AudioProjectorConfig | None
) -> dict[str, Shape]:
    """Shapes of all parameters in the release's file, by official name. The file's reference network is a plain
    transformer with a complete last layer."""
    plain = TransformerConfig(**{**vars(config), "face": None, "audio": None})
    shapes: dict[str, Shape] = {}
    for part, module in (
        (names.DENOISER, Denoiser(config, device="meta")),
        (names.FACE_PROJECTOR, face and FaceProjector(face, device="meta")),
        (names.AUDIO_PROJECTOR, audio and AudioProjector(audio, device="meta")),
    ):
        official = names.official_names(part, config.layers)
        shapes |= {official[name]: tuple(p.shape) for name, p in (module.named_parameters() if module else ())}
    official = names.official_names(names.DENOISER, config.layers)
    own, other = (
        next(p for p, part in names.PREFIXES.items() if part == n) for n in (names.DENOISER, names.REFERENCE_NET)
    )
    for name, p in Denoiser(plain, device="meta").named_parameters():
        shapes[other + official[name].removeprefix(own)] = tuple(p.shape)
    for prefix in names.PREFIXES:
        tokens = config.text_tokens + config.grid.tokens
        shapes[prefix + names.POSITIONS] = (1, tokens, config.hidden)
    return shapes


def _made(shapes: Mapping[str, Shape]) -> set[str]:
    """Tensors of the file that are not parameters: rotary tables and an unused table."""
    return {p + name for p in names.PREFIXES for name in names.NEVER_USED if p + name in shapes}


def _is_unseen(official: str, shapes: Mapping[str, Shape]) -> bool:
    for prefix, part in names.PREFIXES.items():
        if official.startswith(prefix) and part == names.REFERENCE_NET:
            layers = names.layer_count(n.removeprefix(prefix) for n in shapes if n.startswith(prefix))
            place = names.place(official.removeprefix(prefix), part, layers)
            return place is not None and place.part == names.UNUSED
    return False
