"""Tells when a LoRA of this project's training is applied to other weights than those that it was trained on.

A hash would differ after every conversion of the same weights. So the LoRA's metadata holds a few values of some of the
denoiser's matrices, which are compared by their size. Rounding to bf16 moves them by 0.2 %, to fp8 by 2.5 %, to int8 by
less; weights of another training by about 140 %.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ...model.scaled import rotate
from ...weights import fp8

KEY = "base_values"  # of the metadata
MATRICES, VALUES = 32, 8  # how many, evenly spaced, and how many values of each
DIFFERENT = 0.05  # relative difference: twice that of rounding to fp8
log = logging.getLogger(__name__)


def base_text(tensors: Mapping[str, Tensor]) -> str:
    """Values of a denoiser's tensors (our names), for a LoRA's metadata."""
    return json.dumps({name: [float(f"{v:.4g}") for v in _values(tensors, name)] for name in _chosen(tensors)})


def warn_of_other_base(label: str, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Logs a warning if a LoRA's metadata states values of its base, and these tensors of a denoiser (our names; fp8
    with their scales) are others. Files of other programs state none."""
    try:
        stated = json.loads(metadata.get(KEY, "{}"))
        wanted = torch.tensor([value for name in sorted(stated) for value in stated[name]], dtype=torch.float64)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return  # not written by this project
    if not len(wanted) or any(name in tensors and tensors[name].is_meta for name in stated):
        return
    found = [_values(tensors, name) if name in tensors else [0.0] * len(stated[name]) for name in sorted(stated)]
    found = torch.tensor([value for values in found for value in values], dtype=torch.float64)
    difference = float((found - wanted).norm() / wanted.norm()) if found.shape == wanted.shape else float("inf")
    if not difference <= DIFFERENT:
        log.warning(
            "%s: was trained on other weights than this denoiser's (sampled values differ by %.0f %%). Use the "
            "transformer file that it was trained on, or expect weaker results.",
            label,
            100 * difference,
        )


def _chosen(names: Iterable[str]) -> list[str]:
    """Evenly spaced matrices of the blocks, of every kind."""
    matrices = sorted(name for name in names if fp8.is_rounded(name))
    step = max(1.0, len(matrices) / MATRICES)
    return [matrices[int(n * step)] for n in range(min(MATRICES, len(matrices)))]


def _values(tensors: Mapping[str, Tensor], name: str) -> list[float]:
    weight = tensors[name].detach()
    if type(weight) not in (Tensor, torch.nn.Parameter):  # a host's quantised tensor
        weight = weight.dequantize()
    flat = weight.flatten()
    places = torch.linspace(0, len(flat) - 1, min(VALUES, len(flat)), dtype=torch.float64).long().to(flat.device)
    scale = tensors.get(f"{name.removesuffix('.weight')}.{fp8.SCALE}")
    if weight.dtype == torch.int8 and scale is not None:
        columns = weight.shape[1]
        rows, group = places // columns, int(tensors[f"{name.removesuffix('.weight')}.rotated"])
        whole = rotate(weight[rows].float(), group) * scale.detach()[rows]
        return whole.gather(1, (places % columns)[:, None]).flatten().double().cpu().tolist()
    # Float8 cannot be indexed everywhere: its bytes can.
    picked = flat.view(torch.uint8)[places].view(flat.dtype) if flat.itemsize == 1 else flat[places]
    values = picked.double() if scale is None else picked.double() * scale.detach().double().to(flat.device)
    return values.cpu().tolist()
