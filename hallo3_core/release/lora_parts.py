"""LoRAs of this project's own training change the reference network and the projectors too: each network finds its own.

Their keys are our names of the layers behind the network's (`reference_net.blocks.0.self_attention.qkv.lora_A.weight`).
A LoRA made for CogVideoX has none of them, and changes the denoiser alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from ..model.config import Shape, TransformerConfig
from ..weights import names
from ..weights.reading import read_metadata, read_tensors
from .lora import Lora, Target, apply_lora, match_pairs, read_lora
from .lora_names import PART_PREFIXES, part_of


def read_part_lora(path: Path | str, part: str, shapes: Mapping[str, Shape]) -> Lora:
    """What a file has for the network `part` with parameters of these shapes; without patches where that is nothing.

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
    """Change a network by all of these files, each at its strength; `config` is the denoiser's, for it alone.

    Raises:
        InputError: a file that is no LoRA for this model, or a strength that is no number.
    """
    for path, strength in loras:
        if part == names.DENOISER:
            lora = read_lora(path, config)
        else:
            lora = read_part_lora(path, part, {name: tuple(p.shape) for name, p in module.named_parameters()})
        apply_lora(module, lora, strength)
