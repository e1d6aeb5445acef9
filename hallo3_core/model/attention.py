"""Attention as the blocks use it: the function that is passed in, heads, and keys and values that are computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# q, k, v "b h n d" -> "b h n d", full attention with scale 1 / sqrt(d)
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The default attention function: torch's own."""
    return F.scaled_dot_product_attention(q, k, v)


class KeysValues(NamedTuple):
    """Keys and values of tokens that never change while a clip is sampled.

    reference and face tokens: ``b h n d``; audio tokens: ``b t h n d``. A batch of 1 serves every sample.
    """

    keys: Tensor
    values: Tensor


# the attention function, then q, k, v of text and video, and the portrait's -> as attention
JointAttention = Callable[[Attention, Tensor, Tensor, Tensor, KeysValues | None], Tensor]


def attend_here(attention: Attention, q: Tensor, k: Tensor, v: Tensor, reference: KeysValues | None) -> Tensor:
    """Self-attention where all tokens are at hand; the portrait's are further keys and values, never queries."""
    if reference is not None:
        k = torch.cat((k, reference.keys.expand(k.shape[0], -1, -1, -1)), dim=2)
        v = torch.cat((v, reference.values.expand(v.shape[0], -1, -1, -1)), dim=2)
    return attention(q, k, v)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``... n (h d) -> ... h n d``"""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def join_heads(x: Tensor) -> Tensor:
    """``... h n d -> ... n (h d)``"""
    return x.transpose(-3, -2).flatten(-2)


class SelfAttention(nn.Module):
    """Fused query, key and value matrix, and the output matrix."""

    def __init__(self, hidden: int, *, operations=nn, device=None, dtype=None):
        super().__init__()
        self.qkv = operations.Linear(hidden, 3 * hidden, device=device, dtype=dtype)
        self.out = operations.Linear(hidden, hidden, device=device, dtype=dtype)


class CrossAttention(nn.Module):
    """Queries from the video, keys and values (fused, keys first) from a few tokens of `context` width."""

    def __init__(self, hidden: int, context: int, *, operations=nn, device=None, dtype=None):
        super().__init__()
        self.query = operations.Linear(hidden, hidden, device=device, dtype=dtype)
        self.key_value = operations.Linear(context, 2 * hidden, device=device, dtype=dtype)
        self.out = operations.Linear(hidden, hidden, device=device, dtype=dtype)
