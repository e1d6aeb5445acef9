"""LoRAs from this project's own training, which also change the reference network and the projectors.

A key is the network's name followed by our name of the layer
(`reference_net.blocks.0.self_attention.qkv.lora_A.weight`). A LoRA made for CogVideoX has no such keys and changes only
the denoiser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from ..model.config import Shape, TransformerConfig
from ..weights import names
from ..weights.reading import read_metadata, read_tensors
from .lora import Lora, Target, apply_lora, match_pairs, read_lora
from .lora_base import warn_of_other_base
from .lora_names import PART_PREFIXES, part_of


def read_part_lora(path: Path | str, part: str, shapes: Mapping[str, Shape]) -> Lora:
    """Reads a file's LoRA for the network `part`, whose parameters have these shapes; no patches if it has none.

    Raises:
        InputError: no such file, damaged, or made for a network of another size.
    """
    prefix = next(prefix for prefix, own in PART_PREFIXES.items() if own == part)
    tensors = {k.removeprefix(prefix): t for k, t in read_tensors(path).items() if part_of(k) == part}
    weights = {name: shape for name, shape in shapes.items() if name.endswith(".weight")}
    targets = {name.removesuffix(".weight"): (Target(name, 0, shape[0]),) for name, shape in weights.items()}
    return match_pairs(tensors, targets, weights, label=str(path), metadata=read_metadata(path))


def apply_loras(
    module: nn.Module, part: str, loras: Sequence[tuple[Path, float]], config: TransformerConfig | None = None
) -> None:
    """Applies all of these files to a network, each at its strength; `config` is the denoiser's, and used only for it.
    A LoRA that was trained on another denoiser is applied with a warning.

    Raises:
        InputError: a file that is not a LoRA for this model, or a strength that is NaN or infinite.
    """
    if part == names.DENOISER:  # before any is applied
        weights = module.state_dict()
        for path, _ in loras:
            warn_of_other_base(path, weights)
    for path, strength in loras:
        if part == names.DENOISER:
            lora = read_lora(path, config)
        else:
            lora = read_part_lora(path, part, {name: tuple(p.shape) for name, p in module.named_parameters()})
        apply_lora(module, lora, strength)
