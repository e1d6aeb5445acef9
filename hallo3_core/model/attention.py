"""Attention for the blocks: the pluggable attention function, heads, and keys and values that are computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import TransformerConfig

FOLDED_BYTES = 2**29  # for all layers together
BIAS_ROWS = 8
FACTORS = {torch.bfloat16: 2.0**20, torch.float16: 2.0**6}  # powers of two, so exact; far from overflow

# q, k, v "b h n d" -> "b h n d", full attention with scale 1 / sqrt(d)
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The default attention function, torch's own."""
    return F.scaled_dot_product_attention(q, k, v)


class KeysValues(NamedTuple):
    """Keys and values of tokens that are constant while a clip is sampled.

    Reference and face tokens: ``b h n d``; audio tokens: ``b t h n d``. A batch of 1 is broadcast to every sample.
    """

    keys: Tensor
    values: Tensor


def further(one: KeysValues | None, other: KeysValues) -> KeysValues:
    """Concatenates both sets of tokens: ``b h n d``. A batch of 1 is expanded to the other's size."""
    if one is None:
        return other
    batch = max(one.keys.shape[0], other.keys.shape[0])
    return KeysValues(
        *(torch.cat([x.expand(batch, -1, -1, -1) for x in pair], 2) for pair in zip(one, other, strict=True))
    )


class Folded(NamedTuple):
    """Keys, and instead of values, the values multiplied by the output matrix: one row per head and token. Attention
    weights times these few rows give the layer's output without a matmul with the whole output matrix.

    keys: ``b h n d`` for the face, ``b t h n d`` for audio, at least float32, scaled by 1 / sqrt(d).
    outputs: ``b (h n + 8) D`` and ``b t (h n + 8) D``: the rows, the matrix's bias, and 7 rows of zeros, because GPUs
    need multiples of 8 rows. A batch of 1 is broadcast to every sample.
    """

    keys: Tensor
    outputs: Tensor

    def attend(self, q: Tensor) -> Tensor:
        """Queries ``b h n d`` (``b t h n d``) -> the result after the output matrix, ``b n D`` (``b t n D``)."""
        scores = self.keys @ q.to(self.keys.dtype).transpose(-1, -2)  # keys first: softmax then reads memory in order
        shares = F.pad(scores.softmax(dim=-2).to(q.dtype).flatten(-3, -2), (0, 0, 0, BIAS_ROWS))
        shares[..., -BIAS_ROWS, :] = 1
        return shares.transpose(-1, -2) @ self.outputs


def is_worth_folding(config: TransformerConfig, tokens: Tensor) -> bool:
    """Whether to fold keys and values of these tokens ``... n c``, in all layers. Depends only on sizes, so that
    results do not depend on how much memory is free.

    With folding, a query meets (heads x n) rows instead of the output matrix's D. The rows of all layers stay in
    memory, and many tokens make them large: 50 MB for the released model's face, 5.2 GB for the audio of a clip.
    """
    rows = config.heads * tokens.shape[-2]
    kept = config.layers * config.heads * tokens[..., 0].numel() * config.hidden * tokens.element_size()
    return rows < config.hidden and kept <= FOLDED_BYTES


# Self-attention over all text and video tokens, wherever they are stored. Arguments: the attention function; a list of
# q, k, v, which is emptied; the portrait's keys and values. Returns what the attention function returns. There is a
# version in `parallel/` for tokens on several GPUs.
JointAttention = Callable[[Attention, list[Tensor], KeysValues | None], Tensor]


def attend_here(attention: Attention, qkv: list[Tensor], reference: KeysValues | None) -> Tensor:
    """Self-attention on one device. The portrait's tokens are extra keys and values, never queries.

    Empties `qkv`, so that the caller keeps no reference and each original is freed once it has been concatenated with
    the portrait's.
    """
    v, k, q = qkv.pop(), qkv.pop(), qkv.pop()
    if reference is not None:
        v = torch.cat((v, reference.values.expand(v.shape[0], -1, -1, -1)), dim=2)
        k = torch.cat((k, reference.keys.expand(k.shape[0], -1, -1, -1)), dim=2)
    return attention(q, k, v)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``... n (h d) -> ... h n d``"""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def join_heads(x: Tensor) -> Tensor:
    """``... h n d -> ... n (h d)``"""
    return x.transpose(-3, -2).flatten(-2)


class SelfAttention(nn.Module):
    """The weights of self-attention: fused query, key and value matrix, and output matrix."""

    def __init__(self, hidden: int, *, operations=nn, device=None, dtype=None):
        super().__init__()
        self.qkv = operations.Linear(hidden, 3 * hidden, device=device, dtype=dtype)
        self.out = operations.Linear(hidden, hidden, device=device, dtype=dtype)


class CrossAttention(nn.Module):
    """The weights of cross-attention: queries from the video, keys and values (fused, keys first) from a few tokens of
    width `context`."""

    def __init__(self, hidden: int, context: int, *, operations=nn, device=None, dtype=None):
        super().__init__()
        self.query = operations.Linear(hidden, hidden, device=device, dtype=dtype)
        self.key_value = operations.Linear(context, 2 * hidden, device=device, dtype=dtype)
        self.out = operations.Linear(hidden, hidden, device=device, dtype=dtype)

    def fold(self, keys_values: KeysValues) -> Folded:
        """Multiplies each head's values by the output matrix.

        Calls the output layer instead of reading its weight, which may be stored in any format. The layer adds its
        bias, and a large bias would cost the sum its precision. So the inputs are scaled up, which makes the bias
        relatively small, and the layer is called on both signs: half the difference of the results has no bias.
        """
        keys, values = keys_values
        *_, heads, _, width = values.shape
        wide = torch.promote_types(keys.dtype, torch.float32)
        alone = torch.diag_embed(values.movedim(-3, -1), dim1=-4, dim2=-2)  # ... h n h d, zero except in its own head
        bias, factor = self.out(values.new_zeros(heads * width)), FACTORS.get(values.dtype, 1)
        alone = alone.flatten(-2) * factor
        rows = (self.out(alone).to(wide) - self.out(-alone)) / (2 * factor)
        rows = rows.to(bias.dtype).flatten(-3, -2)
        end = F.pad(bias[None], (0, 0, 0, BIAS_ROWS - 1)).expand(*rows.shape[:-2], -1, -1)
        return Folded(keys.to(wide) * width**-0.5, torch.cat((rows, end), dim=-2))
