"""LoRAs made for CogVideoX-5B-I2V, applied to Hallo3's trunk by name: one map, which the ComfyUI node reads too.

Names are taken in three forms: diffusers' (`transformer.transformer_blocks.0.attn1.to_q.lora_A.weight`; PEFT's, with
`base_model.model.`, is the same), kohya's (`lora_unet_transformer_blocks_0_attn1_to_q.lora_down.weight`) and our own
(`diffusion_model.blocks.0.mlp.up.lora_A.weight`). A pair changes a weight by strength x alpha / rank x up @ down.
"""

from __future__ import annotations

import json
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
from ..weights.reading import read_metadata, read_tensors

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
_PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.")
_KOHYA = "lora_unet_"
_UP = ("lora_B.weight", "lora_up.weight", "lora_B.default.weight", "lora.up.weight")
_DOWN = ("lora_A.weight", "lora_down.weight", "lora_A.default.weight", "lora.down.weight")
_ADAPTER = "lora_adapter_metadata"  # diffusers' key in a file's metadata: PEFT's settings as JSON

log = logging.getLogger(__name__)


class Target(NamedTuple):
    """`rows` rows of one of our tensors from `start`: rows of theirs from `their_start`."""

    name: str
    start: int
    rows: int
    their_start: int = 0


class Patch(NamedTuple):
    """What one of our tensors gains at `target`: strength x scale x up @ down; up ``rows r``, down ``r columns``."""

    target: Target
    up: Tensor
    down: Tensor
    scale: float


@dataclass(frozen=True)
class Lora:
    """A LoRA in our names, and the keys of its file that are of no use here."""

    label: str
    patches: tuple[Patch, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Applied:
    """Our tensors that were changed, and the LoRA's keys that were not understood."""

    names: tuple[str, ...]
    unknown: tuple[str, ...]


def weight_shapes(config: TransformerConfig) -> dict[str, Shape]:
    """Every weight of the denoiser that a LoRA may change, in our names."""
    model = Denoiser(config, device="meta")
    return {name: tuple(p.shape) for name, p in model.named_parameters() if name.endswith(".weight")}


def lora_targets(config: TransformerConfig) -> dict[str, tuple[Target, ...]]:
    """A layer's name, diffusers' or ours, without prefix and `.weight` -> where its rows go in our tensors.

    Two fusions make it more than a renaming. Queries, keys and values are one matrix here. And a layer's modulation is
    one matrix, in which video's six vectors (shift, scale, gate of attention, then of the MLP) stand before text's,
    while diffusers has attention's six (video's three, text's three) and the MLP's six in two.
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
    """Read a LoRA file for a denoiser of these sizes.

    Raises:
        InputError: no such file, damaged, made for another model, or of a kind that cannot be applied.
    """
    return match_lora(read_tensors(path), config, label=str(path), metadata=read_metadata(path))


def match_lora(
    tensors: Mapping[str, Tensor], config: TransformerConfig, *, label: str, metadata: Mapping[str, str]
) -> Lora:
    """Find the place of each pair. A layer that has other tensors than a pair and its alpha is not touched but listed.

    Raises:
        InputError: nothing in it fits this model, or what fits by name has another size.
    """
    targets, shapes = lora_targets(config), weight_shapes(config)
    stems = {stem.replace(".", "_"): stem for stem in targets}
    layers: dict[str, dict[str, str]] = {}  # our or diffusers' stem -> role -> key
    unknown = []
    for key in tensors:
        stem, rest = _split(key, stems)
        if stem is None:
            unknown.append(key)
        else:
            layers.setdefault(stem, {})["up" if rest in _UP else "down" if rest in _DOWN else rest] = key
    patches = []
    for stem, keys in layers.items():
        if not {"up", "down"} <= keys.keys() <= {"up", "down", "alpha"}:
            unknown += keys.values()
            continue
        up, down = (tensors[keys[role]].flatten(1) for role in ("up", "down"))
        _check_sizes(stem, up, down, targets[stem], shapes, label)
        alpha = tensors[keys["alpha"]].item() if "alpha" in keys else None
        scale = _scale(alpha, len(down), metadata, label)
        for target in targets[stem]:
            rows = up[target.their_start : target.their_start + target.rows]
            patches.append(Patch(target, rows, down, scale))
    if not patches:
        raise InputError(
            f"{label}: no LoRA for this model: none of its {len(tensors)} tensors fits (the first: {min(tensors)}). "
            "Choose one made for CogVideoX-5B-I2V, in diffusers or kohya naming."
        )
    return Lora(label, tuple(patches), tuple(sorted(unknown)))


def apply_lora(module: nn.Module, lora: Lora, strength: float = 1.0) -> Applied:
    """Change the denoiser's weights, computed in float32 and kept in their own dtype; what is unknown is logged.

    A weight in eight bits would round most of a LoRA away: such a layer becomes an ordinary one in the dtype of its
    bias, twice as large.

    Raises:
        InputError: a strength that is no number.
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
        rows = weight.flatten(1)  # a view
        for (_, start, count, _), up, down, scale in patches:
            change = up.to(rows.device, torch.float32) @ down.to(rows.device, torch.float32)
            rows[start : start + count].add_(change, alpha=strength * scale)
        layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    if widened:
        log.warning("%s: %d layers are no longer in fp8, to hold it", lora.label, widened)
    if lora.unknown:
        log.warning("%s: %d keys of no use here: %s", lora.label, len(lora.unknown), ", ".join(lora.unknown))
    return Applied(tuple(by_name), lora.unknown)


def _split(key: str, stems: Mapping[str, str]) -> tuple[str | None, str]:
    """A key's layer (as `lora_targets` calls it; None: none of the model's) and the rest of the key."""
    parts = key.split(".")
    for length in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:length])
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        stem = stems.get(name.removeprefix(_KOHYA).replace(".", "_"))
        if stem is not None:
            return stem, ".".join(parts[length:])
    return None, key


def _check_sizes(
    stem: str, up: Tensor, down: Tensor, targets: tuple[Target, ...], shapes: Mapping[str, Shape], label: str
) -> None:
    rows, columns = sum(target.rows for target in targets), prod(shapes[targets[0].name][1:])
    if (len(up), down.shape[1]) != (rows, columns) or up.shape[1] != len(down):
        raise InputError(
            f"{label}: {stem} is {list(up.shape)} @ {list(down.shape)}, for a weight of {rows} x {columns}: "
            "it was made for another model. Choose one made for CogVideoX-5B-I2V."
        )


def _scale(alpha: float | None, rank: int, metadata: Mapping[str, str], label: str) -> float:
    """alpha / rank; alpha stands beside the pair or in the settings that PEFT leaves in the metadata, or is the rank.

    Raises:
        InputError: settings that this does not follow.
    """
    try:
        settings = json.loads(metadata.get(_ADAPTER, "{}"))
        settings = {name.removeprefix("transformer."): value for name, value in settings.items()}
        if settings.get("alpha_pattern") or settings.get("use_dora"):
            raise InputError(f"{label}: a LoRA with an alpha for each layer, or DoRA, cannot be applied")
        if alpha is None:
            alpha = settings.get("lora_alpha", rank)
        scale = alpha / (rank**0.5 if settings.get("use_rslora") else rank)
        if not math.isfinite(scale):
            raise ValueError(f"alpha is {alpha}")
        return scale
    except InputError:
        raise
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{label}: damaged settings in its metadata ({error})") from error


def _widened(module: nn.Module, name: str) -> nn.Linear:
    """Replace the scaled layer of this name by an ordinary one of the same weight, in float32 for now."""
    scaled = module.get_submodule(name)
    linear = nn.Linear(scaled.in_features, scaled.out_features, device="meta")
    linear.weight = nn.Parameter(scaled.full_weight(torch.float32), requires_grad=False)
    linear.bias = scaled.bias
    module.set_submodule(name, linear)
    return linear
