"""Applies LoRAs made for CogVideoX-5B-I2V to Hallo3's trunk by name, with one map that the ComfyUI node uses too.

`lora_names.py` lists the accepted names. A pair changes a weight by strength x alpha / rank x up @ down.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..model.config import Shape, TransformerConfig
from ..model.denoiser import Denoiser
from ..model.scaled import ScaledLinear
from ..weights import names
from ..weights.reading import read_metadata, read_tensors
from .lora_names import part_of, reason, shortened, sorted_pairs
from .lora_scale import read_scales, settings_beside

_PLAIN = {
    "patch_embed.proj": "patch_embed",
    "patch_embed.text_proj": "text_embed",
    "time_embedding.linear_1": "modulation.time.0",
    "time_embedding.linear_2": "modulation.time.2",
    "norm_out.linear": "head_modulation",
    "proj_out": "head",
}
_BLOCK = {
    "attn1.to_out.0": "self_attention.out",
    "attn1.norm_q": "query_norm",
    "attn1.norm_k": "key_norm",
    "ff.net.0.proj": "mlp.up",
    "ff.net.2": "mlp.down",
}
log = logging.getLogger(__name__)


class Target(NamedTuple):
    """Maps `rows` rows of one of our tensors, from `start`, to rows of theirs from `their_start`."""

    name: str
    start: int
    rows: int
    their_start: int = 0


class Patch(NamedTuple):
    """Adds strength x scale x up @ down to one of our tensors at `target`; up ``rows r``, down ``r columns``.

    magnitude: DoRA's, ``rows 1`` or ``1 columns``; bias: added to the layer's bias, ``rows``.
    """

    target: Target
    up: Tensor
    down: Tensor
    scale: float
    magnitude: Tensor | None = None
    bias: Tensor | None = None


@dataclass(frozen=True)
class Lora:
    """A LoRA in our names, the keys of its file that cannot be used here, and notes for the user."""

    label: str
    patches: tuple[Patch, ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Applied:
    """Names of our tensors that were changed, and the LoRA's keys that were not recognised."""

    names: tuple[str, ...]
    unknown: tuple[str, ...]


def weight_shapes(config: TransformerConfig) -> dict[str, Shape]:
    """Every weight of the denoiser that a LoRA may change, in our names."""
    model = Denoiser(config, device="meta")
    return {name: tuple(p.shape) for name, p in model.named_parameters() if name.endswith(".weight")}


def lora_targets(config: TransformerConfig) -> dict[str, tuple[Target, ...]]:
    """Layer name, diffusers' or ours, without prefix and `.weight` -> where its rows go in our tensors.

    Two fused matrices make this more than a renaming. Queries, keys and values are one matrix here. A layer's
    modulation is also one matrix: the video's six vectors (shift, scale, gate of attention, then of the MLP), then the
    text's six. Diffusers has two matrices, one for attention and one for the MLP, each with the video's three vectors,
    then the text's three.
    """
    shapes, d = weight_shapes(config), config.hidden
    targets = {name.removesuffix(".weight"): (Target(name, 0, shape[0]),) for name, shape in shapes.items()}
    for theirs, ours in _PLAIN.items():
        targets[theirs] = targets[ours]
    for n in range(config.layers):
        block, modulation = f"transformer_blocks.{n}.", f"modulation.blocks.{n}.weight"
        for theirs, ours in _BLOCK.items():
            targets[block + theirs] = targets[f"blocks.{n}.{ours}"]
        for i, kind in enumerate("qkv"):
            targets[f"{block}attn1.to_{kind}"] = (Target(f"blocks.{n}.self_attention.qkv.weight", i * d, d),)
        for i, norm in enumerate(("norm1", "norm2")):
            video = Target(modulation, 3 * i * d, 3 * d)
            text = Target(modulation, (6 + 3 * i) * d, 3 * d, their_start=3 * d)
            targets[f"{block}{norm}.linear"] = (video, text)
    return targets


def read_lora(path: Path | str, config: TransformerConfig) -> Lora:
    """Reads a LoRA file for a denoiser of these sizes, with the settings that PEFT saves beside it.

    Raises:
        InputError: no such file, damaged, made for another model, or of a type that cannot be applied.
    """
    metadata = read_metadata(path) | settings_beside(Path(path))
    return match_lora(read_tensors(path), config, label=str(path), metadata=metadata)


def match_lora(
    tensors: Mapping[str, Tensor], config: TransformerConfig, *, label: str, metadata: Mapping[str, str]
) -> Lora:
    """Matches each pair to a weight of the denoiser. A layer with unrecognised tensors is left alone and listed;
    layers of the other networks (`lora_parts.py`) are skipped.

    Raises:
        InputError: nothing in the file fits this model, or a layer matches by name but not in size.
    """
    own = {key: tensor for key, tensor in tensors.items() if part_of(key) == names.DENOISER}
    lora = match_pairs(own, lora_targets(config), weight_shapes(config), label=label, metadata=metadata)
    if not lora.patches and len(own) == len(tensors):
        raise InputError(
            f"{label}: not a LoRA for this model: none of its {len(tensors)} tensors fits (the first: {min(tensors)}). "
            + (reason(lora.unknown) or "Choose one made for CogVideoX-5B-I2V, in diffusers or kohya naming.")
        )
    return lora


def match_pairs(
    tensors: Mapping[str, Tensor],
    targets: Mapping[str, tuple[Target, ...]],
    shapes: Mapping[str, Shape],
    *,
    label: str,
    metadata: Mapping[str, str],
) -> Lora:
    """Matches pairs to the layers in `targets`, whose weights have these `shapes`.

    Raises:
        InputError: a layer matches by name but not in size.
    """
    pairs, unknown = sorted_pairs(tensors, targets)
    ranks = {len(tensors[keys["down"]]) for keys in pairs.values()}
    scales = read_scales(metadata, ranks, label)
    patches, has_alpha = [], scales.alpha is not None
    for (stem, _), keys in pairs.items():
        up, down = (tensors[keys[role]].flatten(1) for role in ("up", "down"))
        _check_sizes(stem, up, down, targets[stem], shapes, label)
        alpha = tensors[keys["alpha"]].item() if "alpha" in keys else None
        has_alpha |= alpha is not None
        scale = scales.scale(stem, len(down), alpha)
        magnitude = tensors[keys["magnitude"]] if "magnitude" in keys else None
        if magnitude is not None and by_column(magnitude, len(up)) and len(targets[stem]) > 1:
            unknown += keys.values()  # its norm spans rows that are not contiguous in our tensor
            continue
        bias = sum(
            tensors[keys[role]].float() * factor for role, factor in (("up bias", scale), ("bias", 1)) if role in keys
        )
        for target in targets[stem]:
            rows = slice(target.their_start, target.their_start + target.rows)
            own = magnitude if magnitude is None or by_column(magnitude, len(up)) else magnitude.flatten()[rows, None]
            patches.append(Patch(target, up[rows], down, scale, own, bias[rows] if isinstance(bias, Tensor) else None))
    notes = []
    if patches and not has_alpha:
        notes.append("no alpha was found in it or beside it: alpha = rank is assumed, so its pairs are not scaled")
    adapters = {name for _, name in pairs}
    if len(adapters) > 1:
        notes.append(f"holds {len(adapters)} adapters ({shortened(sorted(adapters))}), and all are applied")
    if unknown:
        notes.append(" ".join((f"unused keys ({len(unknown)}): {shortened(sorted(unknown))}.", reason(unknown))))
    return Lora(label, tuple(patches), tuple(sorted(unknown)), tuple(notes))


def apply_lora(module: nn.Module, lora: Lora, strength: float = 1.0) -> Applied:
    """Applies a LoRA to a network's weights, computed in float32 and stored in their own dtype. Logs unknown keys.

    Rounding to fp8 would lose most of a LoRA, so an fp8 layer becomes an ordinary one in the dtype of its bias, twice
    as large.

    Raises:
        InputError: a strength that is NaN or infinite.
    """
    if not math.isfinite(strength):
        raise InputError(f"{lora.label}: strength {strength}, expected a number such as 1")
    by_name: dict[str, list[Patch]] = {}
    for patch in lora.patches:
        by_name.setdefault(patch.target.name, []).append(patch)
    widened = 0
    for name, patches in by_name.items():
        layer = module.get_submodule(name.removesuffix(".weight"))
        dtype = layer.weight.dtype
        if isinstance(layer, ScaledLinear):
            layer, dtype = _widened(module, name.removesuffix(".weight")), layer.bias.dtype
            widened += 1
        weight = layer.weight.detach().to(torch.float32, copy=True)
        for patch in patches:
            rows = weight.flatten(1)[patch.target.start : patch.target.start + patch.target.rows]  # a view
            rows.add_(change_of(rows, patch), alpha=strength)
            if patch.bias is not None:
                _shift(layer, patch, strength)
        layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    if widened:
        log.warning("%s: %d layers are no longer in fp8, to hold it", lora.label, widened)
    for note in lora.notes:
        log.warning("%s: %s", lora.label, note)
    return Applied(tuple(by_name), lora.unknown)


def change_of(rows: Tensor, patch: Patch) -> Tensor:
    """The change that a patch makes to rows ``o i`` of a weight at strength 1, in float32.

    With magnitudes it is DoRA (arXiv:2402.09353): the rows or columns of the sum are rescaled to these norms.
    """
    change = patch.scale * (patch.up.to(rows.device, torch.float32) @ patch.down.to(rows.device, torch.float32))
    if patch.magnitude is None:
        return change
    whole, magnitude = rows + change, patch.magnitude.to(rows.device, torch.float32)
    along = 0 if by_column(magnitude, len(rows)) else 1
    return whole * (magnitude / whole.norm(dim=along, keepdim=True).clamp_min(1e-12)) - rows


def _shift(layer: nn.Module, patch: Patch, strength: float) -> None:
    bias = layer.bias.detach().to(torch.float32, copy=True)
    bias[patch.target.start : patch.target.start + patch.target.rows] += strength * patch.bias.to(bias.device)
    layer.bias = nn.Parameter(bias.to(layer.bias.dtype), requires_grad=False)


def by_column(magnitude: Tensor, rows: int) -> bool:
    """Whether magnitudes are per column, ``1 i``, as LyCORIS may store them, rather than per row, ``o`` or ``o 1``."""
    return magnitude.ndim == 2 and len(magnitude) == 1 and rows > 1


def _check_sizes(
    stem: str, up: Tensor, down: Tensor, targets: tuple[Target, ...], shapes: Mapping[str, Shape], label: str
) -> None:
    rows, columns = sum(target.rows for target in targets), prod(shapes[targets[0].name][1:])
    if (len(up), down.shape[1]) != (rows, columns) or up.shape[1] != len(down):
        raise InputError(
            f"{label}: {stem} is {list(up.shape)} @ {list(down.shape)}, for a weight of {rows} x {columns}: "
            "it was made for another model. Choose one made for CogVideoX-5B-I2V."
        )


def _widened(module: nn.Module, name: str) -> nn.Linear:
    """Replaces the fp8 layer of this name with an ordinary one of the same weight, in float32 for now."""
    scaled = module.get_submodule(name)
    linear = nn.Linear(scaled.in_features, scaled.out_features, device="meta")
    linear.weight = nn.Parameter(scaled.full_weight(torch.float32), requires_grad=False)
    linear.bias = scaled.bias
    module.set_submodule(name, linear)
    return linear
