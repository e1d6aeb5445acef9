"""The host's attention behind the core's function: as the host was started (PyTorch, xformers, sage, flash), or as a
node replaced it."""

from __future__ import annotations

from functools import partial

from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...hallo3_core.model.attention import JointAttention, KeysValues, attend_here
from ...hallo3_core.runtime.attention_backends import for_long_keys

OVERRIDE = "optimized_attention_override"  # in transformer_options: a node's own function


def optimized(q: Tensor, k: Tensor, v: Tensor, **options) -> Tensor:
    """``b h n d`` each -> ``b h n d``"""
    return optimized_attention(q, k, v, q.shape[1], skip_reshape=True, skip_output_reshape=True, **options)


host_attention = for_long_keys(optimized)  # the few keys of face and sound are left to torch, as on the command line


def joint_attention_of(transformer_options: dict) -> JointAttention:
    """Self-attention of text and video: by a node's own function where there is one."""
    if OVERRIDE not in transformer_options:
        return attend_here
    replaced = partial(optimized, transformer_options=transformer_options)

    def attend(_, qkv: list[Tensor], reference: KeysValues | None) -> Tensor:
        return attend_here(replaced, qkv, reference)

    return attend
