"""The host's attention behind the core's function: as the host was started (PyTorch, xformers, sage, flash), or as a
node replaced it.

SageAttention rounds queries and keys to 8 bits. The mean of the keys is taken off first: it moves all scores of a query
by the same number, which the softmax takes out again, and leaves the 8 bits to what differs. (The host asks sage not to
do so itself.) A run's first results are compared with the exact ones, as on the command line.
"""

from __future__ import annotations

from typing import Any

import comfy.model_management as management
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...hallo3_core.model.attention import Attention, JointAttention, KeysValues, attend_here
from ...hallo3_core.runtime.attention_backends import SAGE, Checked, for_long_keys

OVERRIDE = "optimized_attention_override"  # in transformer_options: a node's own function


def optimized(q: Tensor, k: Tensor, v: Tensor, **options) -> Tensor:
    """``b h n d`` each -> ``b h n d``"""
    return optimized_attention(q, k, v, q.shape[1], skip_reshape=True, skip_output_reshape=True, **options)


host_attention = for_long_keys(optimized)  # the few keys of face and sound are left to torch, as on the command line


class RunAttention:
    """Self-attention of text and video in one run; it remembers whether a lossy function served."""

    def __init__(self, layers: int):
        """layers: of the network, each of which is compared once."""
        self._layers, self._options, self._checked = layers, {}, None

    def joint(self, transformer_options: dict) -> JointAttention:
        """By a node's own function where there is one, else by the host's."""
        is_replaced = OVERRIDE in transformer_options
        if is_replaced and not is_sage(transformer_options[OVERRIDE]):
            return _joint(lambda q, k, v: optimized(q, k, v, transformer_options=transformer_options))
        if not is_replaced and not management.sage_attention_enabled():
            return attend_here
        self._options = {"transformer_options": transformer_options} if is_replaced else {}
        if self._checked is None:
            self._checked = for_long_keys(Checked(self._smoothed, checks=self._layers, name=SAGE))
        return _joint(self._checked)

    def _smoothed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return optimized(q, k - k.mean(dim=-2, keepdim=True), v, **self._options)


def is_sage(function: Any) -> bool:
    """Whether a node's function is SageAttention's, or calls it."""
    inner = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    return any(SAGE in getattr(each, "__qualname__", "").lower() for each in (function, *inner))


def _joint(attention: Attention) -> JointAttention:
    def attend(_, qkv: list[Tensor], reference: KeysValues | None) -> Tensor:
        return attend_here(attention, qkv, reference)

    return attend
