"""Tensor names of the official checkpoint and ours: one map for every reader, converter and LoRA loader.

Source: the released file's tensor list. `place` says where each official tensor goes, or why it is not used.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..model.config import Grid, Shape

DENOISER, REFERENCE_NET = "denoiser", "reference_net"
AUDIO_PROJECTOR, FACE_PROJECTOR = "audio_projector", "face_projector"
UNUSED = "unused"

PREFIXES = {"model.diffusion_model.": DENOISER, "ref_model.diffusion_model.": REFERENCE_NET}

_BLOCK = {
    "input_layernorm": "attention_norm",
    "attention.query_key_value": "self_attention.qkv",
    "attention.dense": "self_attention.out",
    "post_attention_layernorm": "mlp_norm",
    "mlp.dense_h_to_4h": "mlp.up",
    "mlp.dense_4h_to_h": "mlp.down",
    "face_input_layernorm": "face_norm",
    "face_attn.query": "face_attention.query",
    "face_attn.key_value": "face_attention.key_value",
    "face_attn.dense": "face_attention.out",
    "audio_input_layernorm": "audio_norm",
    "audio_attn.query": "audio_attention.query",
    "audio_attn.key_value": "audio_attention.key_value",
    "audio_attn.dense": "audio_attention.out",
    # Not in the release: modules of other ways to read audio and face (`model/conditioning.py`), under our names.
    "audio_tokens.proj": "audio_tokens.proj",
    "audio_tokens.positions": "audio_tokens.positions",
    "audio_adaption.linear": "audio_adaption.linear",
    "face_adaption.linear": "face_adaption.linear",
}
_NUMBERED = {
    "mixins.adaln_layer.adaLN_modulations.{}.1": "modulation.blocks.{}",
    "mixins.adaln_layer.query_layernorm_list.{}": "blocks.{}.query_norm",
    "mixins.adaln_layer.key_layernorm_list.{}": "blocks.{}.key_norm",
    "time_embed.{}": "modulation.time.{}",
    **{"transformer.layers.{}." + theirs: "blocks.{}." + ours for theirs, ours in _BLOCK.items()},
}
_PLAIN = {
    "mixins.patch_embed.proj": "patch_embed",
    "mixins.patch_embed.text_proj": "text_embed",
    "mixins.final_layer.norm_final": "head_norm",
    "mixins.final_layer.linear": "head",
    "mixins.final_layer.adaLN_modulation.1": "head_modulation",
    "transformer.final_layernorm": "final_norm",
}
_AUDIO = {"conv1": "halve"}
POSITIONS = "mixins.pos_embed.pos_embedding"
ROTARY = "mixins.pos_embed.freqs_sin"
RELEASED_TEXT_TOKENS = 226
log = logging.getLogger(__name__)
NEVER_USED = {
    "transformer.position_embeddings.weight": "created by the original's library, never read",
    ROTARY: "a rotary table, which is computed here",
    "mixins.pos_embed.freqs_cos": "a rotary table, which is computed here",
}


class Destination(NamedTuple):
    """Destination of an official tensor: one of our parts and the name in it. If the part is UNUSED, the name is the
    reason."""

    part: str
    name: str


def place(name: str, part: str, layers: int) -> Destination | None:
    """Destination of the tensor `name` of an official transformer (without its prefix); None if the model has no such
    tensor.

    `part` is the transformer and `layers` its number of layers. The reference network's last layer ends at its first
    norm.
    """
    if name in NEVER_USED:
        return Destination(UNUSED, NEVER_USED[name])
    stem, _, kind = name.rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    for prefix, projector, renamed in (
        ("transformer.audio_proj.", AUDIO_PROJECTOR, _AUDIO),
        ("transformer.face_proj.", FACE_PROJECTOR, {}),
    ):
        if stem.startswith(prefix) and part == DENOISER:
            rest = stem.removeprefix(prefix)
            return Destination(projector, f"{renamed.get(rest, rest)}.{kind}")
    number = re.search(r"(?<=\.)\d+", stem)
    ours = _PLAIN.get(stem)
    if ours is None and number:
        pattern = stem[: number.start()] + "{}" + stem[number.end() :]
        ours = _NUMBERED[pattern].format(number.group()) if pattern in _NUMBERED else None
    if ours is None:
        return None
    if part == REFERENCE_NET:
        last = f"blocks.{layers - 1}."
        if ours in ("head", "head_norm", "head_modulation", "final_norm"):
            return Destination(UNUSED, "the reference network's output is not used")
        if ours == last + "attention_norm":
            ours = "last_norm"
        elif ours.startswith(last):
            return Destination(UNUSED, "the reference network ends at its last layer's first norm")
    return Destination(part, f"{ours}.{kind}")


def official_names(part: str, layers: int) -> dict[str, str]:
    """Our names of a part's tensors -> the official names, including the transformer's prefix.

    The learned positions of text and video share one official table, and so one official name.
    """
    network = REFERENCE_NET if part == REFERENCE_NET else DENOISER
    prefix = next(prefix for prefix, p in PREFIXES.items() if p == network)
    stems = list(_PLAIN)
    for pattern in _NUMBERED:
        count = 3 if pattern.startswith("time_embed") else layers
        stems += [pattern.format(n) for n in range(count)]
    stems += [f"transformer.audio_proj.{name}" for name in ("proj1", "proj2", "proj3", "conv1", "norm")]
    stems += [f"transformer.face_proj.{name}" for name in ("proj", "norm")]
    found = {}
    for name in (f"{stem}.{kind}" for stem in stems for kind in ("weight", "bias")):
        ours = place(name, network, layers)
        if ours is not None and ours.part == part:
            found[ours.name] = prefix + name
    if part in PREFIXES.values():
        found |= {"text_positions": prefix + POSITIONS, "video_positions": prefix + POSITIONS}
    return found


def layer_count(names: Iterable[str]) -> int:
    """Number of layers of an official transformer (names without prefix)."""
    found = (re.fullmatch(r"transformer\.layers\.(\d+)\.input_layernorm\.weight", name) for name in names)
    return 1 + max((int(m.group(1)) for m in found if m), default=-1)


def trained_grid(shapes: Mapping[str, Shape], sines: Tensor | None) -> Grid:
    """The grid of an official transformer, from its rotary table (``tokens head``).

    The first quarter of a head rotates with the frame, the next part with the row. Without the table or its values (a
    bare list of shapes), the release's 13 frames and its 2:3 shape are assumed, and must fit.

    Raises:
        InputError: the table fits no grid.
    """
    if ROTARY in shapes:
        tokens, head = shapes[ROTARY]
    else:
        tokens, head, sines = shapes[POSITIONS][1] - RELEASED_TEXT_TOKENS, 0, None
        log.warning("%s is missing, which tells the grid: the released 13 frames of 2:3 are assumed", ROTARY)
    if sines is not None and not sines.is_meta:
        columns = _first_nonzero(sines[:, head // 4])
        per_frame = _first_nonzero(sines[:, 0])
        grid = Grid(tokens // per_frame, per_frame // columns, columns)
    else:
        rows = round((max(tokens, 0) / 13 * 2 / 3) ** 0.5)
        grid = Grid(13, rows, rows * 3 // 2)
    if grid.tokens != tokens or tokens < 1:
        raise InputError(f"{ROTARY} or the positions have {tokens} rows, which fit no grid of frames, rows and columns")
    return grid


def split_positions(table: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Splits the official learned table ``1 (m n) D`` into text positions ``m D`` and video positions ``t r c D``."""
    text_tokens = table.shape[1] - grid.tokens
    text, video = table[0].split((text_tokens, grid.tokens))
    return text, video.unflatten(0, (grid.frames, grid.rows, grid.columns))


def _first_nonzero(values: Tensor) -> int:
    nonzero = torch.nonzero(values.float())
    return int(nonzero[0]) if len(nonzero) else len(values)
