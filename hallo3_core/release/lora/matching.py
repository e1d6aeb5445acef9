"""Matches the pairs of a LoRA, made for CogVideoX-5B-I2V or trained here, to the weights of a network.

`keys.py` lists the accepted names, and `layers.py` the layers that they name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

from ...errors import InputError
from ...model.config import Shape, TransformerConfig
from ...weights import names
from .alphas import read_alphas
from .keys import part_of, reason, shortened, sorted_pairs
from .layers import lora_targets, weight_shapes
from .patch import Patch, Target, by_column


@dataclass(frozen=True)
class LoraPatches:
    """A LoRA's changes to one network, the keys of its file that cannot be used there, and notes for the user."""

    label: str
    patches: tuple[Patch, ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...] = ()


def match_lora(
    tensors: Mapping[str, Tensor], config: TransformerConfig, *, label: str, metadata: Mapping[str, str]
) -> LoraPatches:
    """Matches each pair to a weight of the denoiser. A layer with unrecognised tensors is left alone and listed;
    layers of the other networks (`file.py`) are skipped.

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
) -> LoraPatches:
    """Matches pairs to the layers in `targets`, whose weights have these `shapes`.

    Raises:
        InputError: a layer matches by name but not in size.
    """
    pairs, unknown = sorted_pairs(tensors, targets)
    ranks = {len(tensors[keys["down"]]) for keys in pairs.values()}
    alphas = read_alphas(metadata, ranks, label)
    patches, has_alpha = [], alphas.alpha is not None
    for (stem, _), keys in pairs.items():
        up, down = (tensors[keys[role]].flatten(1) for role in ("up", "down"))
        _check_sizes(stem, up, down, targets[stem], shapes, label)
        alpha = tensors[keys["alpha"]].item() if "alpha" in keys else None
        has_alpha |= alpha is not None
        scale = alphas.scale(stem, len(down), alpha)
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
    return LoraPatches(label, tuple(patches), tuple(sorted(unknown)), tuple(notes))


def _check_sizes(
    stem: str, up: Tensor, down: Tensor, targets: tuple[Target, ...], shapes: Mapping[str, Shape], label: str
) -> None:
    rows, columns = sum(target.rows for target in targets), prod(shapes[targets[0].name][1:])
    if (len(up), down.shape[1]) != (rows, columns) or up.shape[1] != len(down):
        raise InputError(
            f"{label}: {stem} is {list(up.shape)} @ {list(down.shape)}, for a weight of {rows} x {columns}: "
            "it was made for another model. Choose one made for CogVideoX-5B-I2V."
        )
