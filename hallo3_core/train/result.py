"""The result of a run: the whole transformer file in the release's names, with metadata on how it was trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..model.conditioning import Conditioning
from ..model.hallo3 import Hallo3
from ..release.layout import TRANSFORMER_FILE, TRANSFORMER_FOLDER
from ..weights import names
from ..weights.reading import read_tensors
from ..weights.writing import NewTensor, write_streamed
from .networks import official_names, parts, rotary_tensors
from .start import OWN, Start, with_reference

CARD = "hallo3_training"  # metadata key


def result_name(mode: str) -> str:
    """A name that a release folder recognises as its transformer file."""
    return f"hallo3_{mode}.safetensors"


def transformer_tensors(
    start: Start, networks: Hallo3, trained: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Every tensor of the result by official name: trained ones (passed by our names), newly made ones, and the initial
    weights for the rest."""
    found = dict((with_reference(start) if networks.reference_net is not None else start).tensors)
    official = official_names(networks)
    ours = {n: networks.get_parameter(n) for n in official if official[n] not in found or n in trained}
    values = {name: trained.get(name, parameter.detach()).cpu().to(dtype) for name, parameter in ours.items()}
    for name, value in values.items():
        if not name.endswith("_positions"):
            found[official[name]] = value
    for part, _ in parts(networks):
        tables = [values.get(f"{part}.{kind}_positions") for kind in ("text", "video")]
        if tables[0] is not None:
            prefix = next(prefix for prefix, p in names.PREFIXES.items() if p == part)
            found[prefix + names.POSITIONS] = torch.cat((tables[0], tables[1].flatten(0, 2)))[None]
    if OWN + names.ROTARY not in found:
        rotary = rotary_tensors(networks.denoiser.config)
        found |= {OWN + name: table for name, table in rotary.items()}
    return found


def write_result(
    path: Path, tensors: Mapping[str, Tensor], card: Mapping[str, object], conditioning: Conditioning
) -> None:
    """Writes a safetensors file atomically. Its metadata records the conditioning if that differs from the release's.

    Raises:
        InputError: the file cannot be written.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    entries = [NewTensor(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in ordered]
    metadata = {CARD: json.dumps(card, sort_keys=True), **conditioning.metadata()}
    write_streamed(path, entries, (t.contiguous() for _, t in ordered), metadata)


def write_official(result: Path, release: Path) -> Path:
    """Writes the result in the format of the official transformer file, at its place in a release folder.

    Raises:
        InputError: the result cannot be read.
    """
    target = release / TRANSFORMER_FOLDER / "1" / TRANSFORMER_FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"module": {name: tensor.clone() for name, tensor in read_tensors(result).items()}}, target)
    (release / TRANSFORMER_FOLDER / "latest").write_text("1")
    return target
