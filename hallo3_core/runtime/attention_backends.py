"""The denoiser's attention kernel: torch's own choice, in chunks of queries where torch has no fused kernel, or sage.

Self-attention reads tens of thousands of keys and takes nearly half of a step; face and audio attention read 4 and 32.
torch picks the fastest of its exact kernels by itself (measured: docs/performance.md), so none has to be named.
"""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import InputError, require
from ..model.attention import Attention, scaled_dot_product
from ..model.config import TransformerConfig

AUTO, TORCH, SAGE = CHOICES = ("auto", "torch", "sage")
FORMER = ("cudnn", "flash", "efficient", "math", "fa3")  # kernels that could be named; they mean auto
FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
SAGE_ERROR = 0.1  # largest root-mean-square error of 8-bit scores, relative to the result
COMPARED = 256  # queries compared, evenly spread: the exact result for all would not fit in memory
SCORES_AT_ONCE = 2**28  # scores computed at once: half a gigabyte in half precision

log = logging.getLogger(__name__)


def choose_attention(
    choice: str, config: TransformerConfig, *, device: torch.device | str, dtype: torch.dtype
) -> Attention:
    """The attention function for a denoiser of these sizes.

    If torch has no fused kernel (Macs, some AMD GPUs), queries are processed in chunks, because the scores of all of
    them would take 30 GB.

    Raises:
        InputError: an unknown choice, a missing package, or a device that the choice does not support.
    """
    check_attention(choice, device)
    if choice == SAGE:
        return for_long_keys(Checked(sage_attention(), checks=config.layers, name=SAGE))
    return scaled_dot_product if has_fused_attention(config.head, device, dtype) else in_chunks


def check_attention(choice: str, device: torch.device | str) -> None:
    """Checks a choice before anything is loaded.

    Raises:
        InputError: an unknown choice, a missing package, or a device that the choice does not support.
    """
    if choice not in CHOICES + FORMER:
        raise InputError(f"attention is {choice!r}: choose one of {', '.join(CHOICES)}")
    if choice in FORMER:
        log.info("attention %s: torch picks the kernel by itself, as with auto", choice)
    if choice == SAGE:
        if torch.device(device).type != "cuda":
            raise InputError(f"attention {choice!r} is for CUDA devices, this is {device}: choose auto")
        sage_attention()


def has_fused_attention(head: int, device: torch.device | str, dtype: torch.dtype) -> bool:
    """Whether torch attends without writing out all scores; on CUDA by a small trial with heads ``head`` wide."""
    if torch.device(device).type != "cuda":
        return torch.device(device).type != "mps"
    x = torch.zeros(1, 1, 64, head, device=device, dtype=dtype)
    try:
        with sdpa_kernel(FUSED):
            F.scaled_dot_product_attention(x, x, x)
    except RuntimeError as refusal:
        log.info("torch has no fused attention here: %s", str(refusal).partition("\n")[0])
        return False
    return True


def sage_attention() -> Attention:
    """SageAttention, which rounds queries and keys to 8 bits.

    Raises:
        InputError: it is not installed.
    """
    package = require("sageattention", "sageattention", "attention sage")

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return package.sageattn(q, k, v, tensor_layout="HND", is_causal=False)

    return attention


def in_chunks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's attention on one chunk of queries at a time: memory holds the scores of only one chunk."""
    count = max(1, SCORES_AT_ONCE // (q.shape[:-2].numel() * k.shape[-2]))
    if q.shape[-2] <= count:
        return scaled_dot_product(q, k, v)
    return torch.cat([scaled_dot_product(part, k, v) for part in q.split(count, dim=-2)], dim=-2)


def for_long_keys(attention: Attention, otherwise: Attention = scaled_dot_product) -> Attention:
    """`attention` if there are at least as many keys as queries, as in self-attention; `otherwise` for a few keys."""

    def chosen(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (attention if k.shape[-2] >= q.shape[-2] else otherwise)(q, k, v)

    return chosen


def relative_error(found: Tensor, q: Tensor, k: Tensor, v: Tensor) -> float:
    """Root mean square error of an attention result relative to the exact one, on COMPARED of its queries.

    Infinite if values are not finite or the shape is wrong.
    """
    if found.shape != q.shape[:-1] + v.shape[-1:]:
        return float("inf")
    rows = torch.linspace(0, q.shape[-2] - 1, min(COMPARED, q.shape[-2]), device=q.device).round().long()
    exact = exact_attention(q[..., rows, :], k, v)
    error = (found[..., rows, :].float() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    return float(error) if torch.isfinite(error) else float("inf")


def exact_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by its definition, in float32, head by head."""
    result = torch.empty(*q.shape[:-1], v.shape[-1], device=q.device)
    for index in ((b, h) for b in range(q.shape[0]) for h in range(q.shape[1])):
        scores = q[index].float() @ k[index].float().T / q.shape[-1] ** 0.5
        result[index] = scores.softmax(dim=-1) @ v[index].float()
    return result


class Checked:
    """A lossy attention function that is checked on a run's own queries and keys.

    Its first `checks` results are compared with exact ones. If one is too far off, torch's function replaces it for
    good, with a warning. It has state, so every run makes its own.
    """

    def __init__(self, attention: Attention, checks: int, name: str, limit: float = SAGE_ERROR):
        self._attention, self._left, self._name, self._limit = attention, checks, name, limit
        # Otherwise each value of the counter would trigger a recompilation. (A decorator would import the compiler.)
        self._attend = torch.compiler.disable(self._attend)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self._attend(q, k, v)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self._attention(q, k, v) if self._left == 0 else self._compare(q, k, v)

    def _compare(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The result while checks remain; an exception counts as a bad result."""
        self._left -= 1
        try:
            result = self._attention(q, k, v)
            error = relative_error(result, q, k, v)
            reason = f"its error is {error:.2g} of the result, more than {self._limit:g}"
        except Exception as refusal:  # Triton's errors have no common class
            error, reason = float("inf"), str(refusal).partition("\n")[0]
        if error <= self._limit:
            return result
        log.warning("attention %s does not work here (%s): using torch's instead", self._name, reason)
        self._attention, self._left = scaled_dot_product, 0
        return scaled_dot_product(q, k, v)
