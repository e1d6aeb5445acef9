"""Builds networks from tensors: sorts a checkpoint's tensors into parts, and fills modules built without storage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..model.attention import Attention, scaled_dot_product
from ..model.conditioning import MARK as CONDITIONING
from ..model.conditioning import METADATA, RELEASED, Conditioning
from ..model.config import AudioProjectorConfig, FaceProjectorConfig, TransformerConfig
from ..model.denoiser import Denoiser
from ..model.projectors import AudioProjector, FaceProjector
from ..model.reference_net import ReferenceNet
from ..model.scaled import put_in_place
from . import names
from .fp8 import FLOAT8, MARK, SCALE
from .quantised import group_in, with_our_layers
from .reading import read_metadata
from .shards import files_of, model_file, read_model
from .spellings import in_our_form, why_dropped

VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "conditioner.embedders.0.transformer."
VAE, TEXT = "vae", "text_encoder"
_TRUNK = {"patch_embed", "text_embed", "text_positions", "video_positions", "modulation", "blocks"}
_ENDS = {"final_norm", "head_modulation", "head_norm", "head", "last_norm"}  # the last is the reference network's


@dataclass
class Parts:
    """A checkpoint's tensors by part, in our names (VAE and text keep the official ones).

    unused: official name -> why it is not needed; unknown: names that the model does not have; conditioning: how the
    denoiser reads its conditions, where its tensors alone do not determine that; mark: the tensor that says so in files
    without metadata.
    """

    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    conditioning: Conditioning = RELEASED
    mark: Tensor | None = None

    def shapes(self, part: str) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors[part].items()}

    def put(self, part: str, name: str, tensor: Tensor) -> None:
        self.tensors.setdefault(part, {})[name] = tensor

    def add(self, other: Parts) -> None:
        """Adds the parts of another file.

        Raises:
            InputError: both files hold the same part.
        """
        for part in self.tensors.keys() & other.tensors.keys():
            raise InputError(f"two files hold the {part.replace('_', ' ')}: keep one of them in the folder")
        if names.DENOISER in other.tensors:
            self.conditioning = other.conditioning
        self.tensors |= other.tensors
        self.unused |= other.unused
        self.unknown += other.unknown


def read_parts(path: Path | str) -> Parts:
    """Maps and sorts the tensors of a file or of all shards of a model, and applies the denoiser's metadata.

    Raises:
        InputError: as `read_tensors` and `sort_tensors`, or damaged metadata.
    """
    path = model_file(Path(path))
    return with_metadata(sort_tensors(read_model(path)), read_metadata(files_of(path)[0]), str(path))


def with_metadata(parts: Parts, metadata: Mapping[str, str], label: str) -> Parts:
    """The same parts, with the denoiser's conditioning from the metadata. Without metadata of it, it is that of the
    tensor that ComfyUI's ModelSave writes in its place, if there is one.

    Raises:
        InputError: damaged metadata, or a damaged tensor.
    """
    try:
        if METADATA in metadata or parts.mark is None:
            parts.conditioning = Conditioning.from_metadata(metadata)
        else:
            parts.conditioning = Conditioning.from_mark(parts.mark)
    except ValueError as error:
        raise InputError(f"{label}: {error}. Save the model again with the version that trained it.") from error
    return parts


def sort_tensors(tensors: Mapping[str, Tensor]) -> Parts:
    """Sorts the tensors of an official or a converted file.

    Raises:
        InputError: a transformer whose grid cannot be determined.
    """
    dropped = {name: why for name in tensors if (why := why_dropped(name))}
    tensors = with_our_layers(in_our_form(tensors))
    official = any(name.startswith((*names.PREFIXES, VAE_PREFIX, TEXT_PREFIX)) for name in tensors)
    parts = sort_official(tensors) if official else sort_converted(tensors)
    parts.unused |= dropped
    return parts


def sort_converted(tensors: Mapping[str, Tensor]) -> Parts:
    """Sorts the tensors of a converted file, in our names: a network, the projectors, or the VAE."""
    parts = Parts()
    network = names.REFERENCE_NET if "last_norm.weight" in tensors else names.DENOISER
    for name, tensor in tensors.items():
        start, _, rest = name.partition(".")
        if start in (names.AUDIO_PROJECTOR, names.FACE_PROJECTOR):
            parts.put(start, rest, tensor)
        elif name == CONDITIONING:
            parts.mark = tensor
        elif start in ("encoder", "decoder") and "decoder.conv_in.conv.weight" in tensors:
            parts.put(VAE, name, tensor)
        elif start in _TRUNK | _ENDS and "video_positions" in tensors:
            parts.put(network, name, tensor)
        else:
            parts.unknown.append(name)
    return parts


def sort_official(tensors: Mapping[str, Tensor]) -> Parts:
    """Sorts the tensors of the official file by prefix and name.

    Raises:
        InputError: a transformer whose grid cannot be determined.
    """
    parts = Parts()
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        for prefix, part in (*names.PREFIXES.items(), (VAE_PREFIX, VAE), (TEXT_PREFIX, TEXT)):
            if name.startswith(prefix):
                groups.setdefault(part, {})[name.removeprefix(prefix)] = tensor
                break
        else:
            parts.unknown.append(name)
    for part, group in groups.items():
        if part in (VAE, TEXT):
            parts.tensors[part] = group
        else:
            prefix = next(prefix for prefix, p in names.PREFIXES.items() if p == part)
            sort_transformer(group, part, parts, prefix)
    return parts


def sort_transformer(tensors: Mapping[str, Tensor], part: str, parts: Parts, prefix: str = "") -> None:
    """Sorts the tensors of one official transformer (names without prefix) into `parts`."""
    layers = names.layer_count(tensors)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if name == names.POSITIONS:
            grid = names.trained_grid(shapes, tensors.get(names.ROTARY))
            text, video = names.split_positions(tensor, grid)
            parts.put(part, "text_positions", text)
            parts.put(part, "video_positions", video)
            continue
        place = names.place(name, part, layers)
        if place is None:
            parts.unknown.append(prefix + name)
        elif place.part == names.UNUSED:
            parts.unused[prefix + name] = place.name
        else:
            parts.put(place.part, place.name, tensor)


def build(
    parts: Parts,
    part: str,
    *,
    attention: Attention = scaled_dot_product,
    operations=nn,
    device="meta",
    dtype=None,
    label: str = "checkpoint",
) -> nn.Module:
    """The module of one part, with sizes from its tensors; without storage on the meta device.

    Layers whose weight has a scale keep it in fp8 or int8, unless `operations` (a host's layers) handles scales itself.

    Raises:
        InputError: the checkpoint lacks the part, or a tensor that determines a size.
    """
    kw = dict(operations=operations, device=device, dtype=dtype)
    with _sizes_from(parts, part, label) as shapes:
        if part == names.AUDIO_PROJECTOR:
            return AudioProjector(AudioProjectorConfig.from_shapes(shapes), **kw)
        if part == names.FACE_PROJECTOR:
            return FaceProjector(FaceProjectorConfig.from_shapes(shapes), **kw)
        network = {names.DENOISER: Denoiser, names.REFERENCE_NET: ReferenceNet}[part]
        module = network(TransformerConfig.from_shapes(shapes, parts.conditioning), attention=attention, **kw)
        for name in shapes if operations is nn else ():
            if name.endswith("." + SCALE):
                layer, tensors = name.removesuffix("." + SCALE), parts.tensors[part]
                is_int8 = layer + ".weight" in tensors and tensors[layer + ".weight"].dtype == torch.int8
                put_in_place(module, layer, group_in(tensors.get(f"{layer}.{MARK}")) if is_int8 else None)
        return module


def transformer_config(parts: Parts, part: str, label: str = "checkpoint") -> TransformerConfig:
    """The sizes of the denoiser or the reference network, without building it.

    Raises:
        InputError: as `build`.
    """
    with _sizes_from(parts, part, label) as shapes:
        return TransformerConfig.from_shapes(shapes, parts.conditioning)


@contextmanager
def _sizes_from(parts: Parts, part: str, label: str) -> Iterator[dict[str, tuple[int, ...]]]:
    """The shapes of a part's tensors; a missing tensor becomes an error that users can understand."""
    if part not in parts.tensors:
        raise InputError(f"{label}: has no {part.replace('_', ' ')}: it has {', '.join(parts.tensors) or 'nothing'}")
    try:
        yield parts.shapes(part)
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        name = part.replace("_", " ")
        raise InputError(
            f"{label}: the {name} lacks {error}, or it has the wrong shape; it determines the network's size"
        ) from error


def fill(
    module: nn.Module, tensors: Mapping[str, Tensor], *, device=None, dtype=None, label: str = "checkpoint"
) -> nn.Module:
    """Fills every parameter of `module` with its tensor, cast and moved one by one, and sets evaluation mode.

    fp8 and int8 weights with a scale stay so, regardless of `dtype`.

    Raises:
        InputError: a tensor is missing, has the wrong shape, or is left over; the message names it.
    """
    expected = {name: tuple(p.shape) for name, p in module.named_parameters()}
    missing = sorted(expected.keys() - tensors.keys())
    surplus = sorted(name for name in tensors.keys() - expected.keys() if not name.endswith("." + MARK))
    if missing or surplus:
        found = [
            f"{len(n)} {word} ({n[0]}{', ...' if len(n) > 1 else ''})"
            for n, word in ((missing, "missing"), (surplus, "unknown"))
            if n
        ]
        raise InputError(f"{label}: tensors do not fit the model: {', '.join(found)}")
    for name, shape in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise InputError(f"{label}: {name} has shape {list(tensor.shape)}, expected {list(shape)}")
        owner, _, leaf = name.rpartition(".")
        value = nn.Parameter(tensor.to(device=device, dtype=_stored(name, tensors, dtype)), requires_grad=False)
        setattr(module.get_submodule(owner), leaf, value)
    return module.eval()


def _stored(name: str, tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> torch.dtype | None:
    """The dtype to store a parameter in; None keeps its own. A float8 tensor without a scale is converted."""
    if name.endswith("." + SCALE) or name.removesuffix("weight") + SCALE in tensors:
        return None
    return torch.bfloat16 if dtype is None and tensors[name].dtype == FLOAT8 else dtype


def load(
    parts: Parts,
    part: str,
    *,
    attention: Attention = scaled_dot_product,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    label: str = "checkpoint",
) -> nn.Module:
    """Builds one part and fills it."""
    module = build(parts, part, attention=attention, dtype=dtype, label=label)
    return fill(module, parts.tensors[part], device=device, dtype=dtype, label=f"{label}, {part.replace('_', ' ')}")
