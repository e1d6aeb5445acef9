"""CogVideoX-5B-I2V's transformer as diffusers names it, in the release's names: what phase 1 starts from.

Diffusers keeps queries, keys and values apart, and a layer's modulation in two matrices; the release has one of each.
`release/lora.py` has the map of rows, since LoRAs follow it too. Both compute the same (a test runs both).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..model.config import Grid, Shape, TransformerConfig
from ..release.lora.layers import lora_targets
from ..release.lora.patch import Target
from ..weights import names
from .networks import rotary_tensors

_NORMS = {
    "norm_final": "final_norm",
    "norm_out.norm": "head_norm",
    "transformer_blocks.{}.norm1.norm": "blocks.{}.attention_norm",
    "transformer_blocks.{}.norm2.norm": "blocks.{}.mlp_norm",
}
_POSITIONS = "patch_embed.pos_embedding"
_PATCH = "patch_embed.proj.weight"
ADVICE = "Start from CogVideoX-5B-I2V's transformer."


def is_diffusers(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are a CogVideoX transformer's tensors in diffusers' names."""
    return "transformer_blocks.0.attn1.to_q.weight" in tensors and _PATCH in tensors


def transformer_file(path: Path) -> Path:
    """The file, or index of shards, of a model's folder: diffusers' `transformer`, or the folder above it.

    Raises:
        InputError: no such file in the folder.
    """
    if not path.is_dir():
        return path
    for folder in (path / "transformer", path):
        for pattern in ("diffusion_pytorch_model*.index.json", "diffusion_pytorch_model*.safetensors"):
            if found := sorted(folder.glob(pattern)):
                return found[0]
    raise InputError(f"{path}: holds no diffusion_pytorch_model*.safetensors. Name a transformer file in start.")


def officially_named(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors in the release's names, with the release's rotary tables. `path` is their file; sizes that tensors do
    not tell are read from the config.json beside it, else they are the released ones.

    Raises:
        InputError: a CogVideoX of another kind, or one that lacks tensors.
    """
    try:
        config = _config(tensors, path)
        ours = _in_our_names(tensors, config)
    except KeyError as error:
        lack = error.args[0]
        raise InputError(f"{path}: is a CogVideoX transformer in diffusers' names without {lack}. {ADVICE}") from None
    official = names.official_names(names.DENOISER, config.layers)
    found = {official[name]: tensor for name, tensor in ours.items()}
    prefix = next(prefix for prefix, part in names.PREFIXES.items() if part == names.DENOISER)
    found[prefix + names.POSITIONS] = tensors[_POSITIONS]
    return found | {prefix + name: table for name, table in rotary_tensors(config).items()}


def _config(tensors: Mapping[str, Tensor], path: Path) -> TransformerConfig:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    _check(shapes, path)
    hidden, channels, patch, _ = shapes[_PATCH]
    rows = shapes[_POSITIONS][1]
    grid = _grid(path.parent / "config.json", patch, rows)
    return TransformerConfig(
        hidden=hidden,
        heads=hidden // shapes["transformer_blocks.0.attn1.norm_q.weight"][0],
        layers=sum(name.endswith(".attn1.to_q.weight") for name in shapes),
        mlp=shapes["transformer_blocks.0.ff.net.0.proj.weight"][0],
        time=shapes["time_embedding.linear_1.weight"][0],
        text_width=shapes["patch_embed.text_proj.weight"][1],
        text_tokens=rows - grid.tokens,
        grid=grid,
        channels=channels // 2,
        patch=patch,
        face=None,
        audio=None,
    )


def _check(shapes: Mapping[str, Shape], path: Path) -> None:
    """Raises InputError for CogVideoX's other kinds: 1.5, and text-to-video, with or without learned positions."""
    patch, out = shapes[_PATCH], shapes["proj_out.weight"]
    kind = None
    if len(patch) != 4:
        kind = "CogVideoX 1.5, which joins frames in pairs"
    elif patch[1] * patch[2] * patch[3] != 2 * out[0]:
        kind = f"a text-to-video model: it reads {patch[1]} channels, and image-to-video twice as many as it writes"
    elif _POSITIONS not in shapes:
        kind = "CogVideoX without learned positions"
    if kind:
        raise InputError(f"{path}: is {kind}. {ADVICE}")


def _grid(config: Path, patch: int, rows: int) -> Grid:
    """The trained grid of a model whose table of positions has so many rows, text and video."""
    try:
        stated = json.loads(config.read_text(encoding="utf-8-sig"))
        frames = (stated["sample_frames"] - 1) // stated["temporal_compression_ratio"] + 1
        return Grid(frames, stated["sample_height"] // patch, stated["sample_width"] // patch)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        return names.trained_grid({names.POSITIONS: (1, rows, 0)}, None)
    except InputError as error:
        raise InputError(
            f"{config}: not readable, and {rows} positions are not those of the released size. Put the model's own "
            "config.json beside its file."
        ) from error


def _in_our_names(tensors: Mapping[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """Fills our tensors row by row from diffusers' matrices and biases; norms are renamed."""
    found: dict[str, Tensor] = {}
    waiting: dict[str, list[tuple[Target, Tensor]]] = {}
    for theirs, targets in lora_targets(config).items():
        if targets[0].name == f"{theirs}.weight":  # our own name of it
            continue
        for kind in ("weight", "bias"):
            for target in targets:
                name = target.name.removesuffix("weight") + kind
                waiting.setdefault(name, []).append((target, tensors[f"{theirs}.{kind}"]))
    for name, parts in waiting.items():
        parts.sort(key=lambda part: part[0].start)
        rows = [tensor[target.their_start : target.their_start + target.rows] for target, tensor in parts]
        found[name] = rows[0] if len(rows) == 1 else torch.cat(rows)
    for theirs, ours in _NORMS.items():
        for n in range(config.layers if "{}" in theirs else 1):
            for kind in ("weight", "bias"):
                found[f"{ours.format(n)}.{kind}"] = tensors[f"{theirs.format(n)}.{kind}"]
    return found
