"""The host's attention as the core's attention function: the backend the host was started with (PyTorch, xformers,
sage, flash), or a node's replacement.

SageAttention rounds queries and keys to 8 bits. The mean of the keys is subtracted first. That shifts all scores of a
query by the same amount, which the softmax cancels, and the 8 bits then resolve only the differences. (The host turns
off sage's own smoothing.) A run's first results are compared with exact ones, as on the command line.
"""

from __future__ import annotations

from typing import Any

import comfy.model_management as management
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...hallo3_core.errors import InputError
from ...hallo3_core.model.attention import Attention, JointAttention, KeysValues, attend_here
from ...hallo3_core.runtime.attention_backends import SAGE, Checked, for_long_keys
from ...hallo3_core.runtime.fallback import is_out_of_memory
from .patches import OVERRIDE, owner


def optimized(q: Tensor, k: Tensor, v: Tensor, **options) -> Tensor:
    """``b h n d`` each -> ``b h n d``"""
    return optimized_attention(q, k, v, q.shape[1], skip_reshape=True, skip_output_reshape=True, **options)


# face and audio attention, with few keys, use torch's, as on the command line
host_attention = for_long_keys(optimized)


class RunAttention:
    """Self-attention of text and video in one run. Keeps track of whether a lossy function was accurate enough."""

    def __init__(self, layers: int):
        """layers: number of the network's layers; each is compared once."""
        self._layers, self._options, self._checked = layers, {}, None

    def joint(self, transformer_options: dict) -> JointAttention:
        """Returns a node's own function if there is one, else the host's."""
        is_replaced = OVERRIDE in transformer_options
        if is_replaced and not is_sage(transformer_options[OVERRIDE]):
            return _joint(lambda q, k, v: _replaced(q, k, v, transformer_options))
        if not is_replaced and not management.sage_attention_enabled():
            return attend_here
        self._options = {"transformer_options": transformer_options} if is_replaced else {}
        if self._checked is None:
            self._checked = for_long_keys(Checked(self._smoothed, checks=self._layers, name=SAGE))
        return _joint(self._checked)

    def _smoothed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return optimized(q, k - k.mean(dim=-2, keepdim=True), v, **self._options)


def _replaced(q: Tensor, k: Tensor, v: Tensor, transformer_options: dict) -> Tensor:
    """Attention by a node's own function.

    Raises:
        InputError: it does not take more keys than queries, as the portrait's make them.
    """
    node = owner(transformer_options[OVERRIDE])
    unequal = f"Hallo3 has {k.shape[-2]} keys for {q.shape[-2]} queries, the portrait's among them"
    try:
        found = optimized(q, k, v, transformer_options=transformer_options)
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise InputError(f"the attention of {node} does not work here ({error}): {unequal}. Remove it.") from error
    if found.shape != q.shape:
        raise InputError(
            f"the attention of {node} does not work here: it gives {list(found.shape)}, expected {list(q.shape)}; "
            f"{unequal}. Remove it."
        )
    return found


def is_sage(function: Any) -> bool:
    """Whether a node's function is SageAttention or calls it."""
    inner = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    return any(SAGE in getattr(each, "__qualname__", "").lower() for each in (function, *inner))


def _joint(attention: Attention) -> JointAttention:
    def attend(_, qkv: list[Tensor], reference: KeysValues | None) -> Tensor:
        return attend_here(attention, qkv, reference)

    return attend
