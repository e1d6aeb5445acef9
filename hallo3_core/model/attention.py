"""Attention as the blocks use it: the function that is passed in, heads, and keys and values that are computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import TransformerConfig

FOLDED_BYTES = 2**29  # of all layers together
BIAS_ROWS = 8
FACTORS = {torch.bfloat16: 2.0**20, torch.float16: 2.0**6}  # exact, and far from the largest number

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


def further(one: KeysValues | None, other: KeysValues) -> KeysValues:
    """Both sets of tokens as one ``b h n d``; a batch of 1 is repeated where the other is larger."""
    if one is None:
        return other
    batch = max(one.keys.shape[0], other.keys.shape[0])
    return KeysValues(
        *(torch.cat([x.expand(batch, -1, -1, -1) for x in pair], 2) for pair in zip(one, other, strict=True))
    )


class Folded(NamedTuple):
    """Keys, and in place of values what each token of each head adds to the result: its value through the output
    matrix. A query's shares times these few rows are the result, without a product with the whole matrix.

    keys: ``b h n d`` of the face, ``b t h n d`` of the sound, float32 at least, scaled by 1 / sqrt(d); outputs:
    ``b (h n + 8) D`` and ``b t (h n + 8) D``: the rows, the matrix's bias, and zeros, because GPUs multiply rows by
    eights. A batch of 1 serves every sample.
    """

    keys: Tensor
    outputs: Tensor

    def attend(self, q: Tensor) -> Tensor:
        """Queries ``b h n d`` (``b t h n d``) -> the output matrix's result ``b n D`` (``b t n D``)."""
        scores = self.keys @ q.to(self.keys.dtype).transpose(-1, -2)  # keys first: softmax runs along memory
        shares = F.pad(scores.softmax(dim=-2).to(q.dtype).flatten(-3, -2), (0, 0, 0, BIAS_ROWS))
        shares[..., -BIAS_ROWS, :] = 1
        return shares.transpose(-1, -2) @ self.outputs


def is_worth_folding(config: TransformerConfig, tokens: Tensor) -> bool:
    """Whether keys and values of these tokens ``... n c`` should be folded, in all layers: by size alone, so that a run
    does not depend on the memory that happens to be free.

    A query then meets (heads x n) rows instead of the output matrix's D. The rows of all layers are kept, and for many
    tokens they are large: 50 MB for the released model's face, 5.2 GB for the sound of a clip.
    """
    rows = config.heads * tokens.shape[-2]
    kept = config.layers * config.heads * tokens[..., 0].numel() * config.hidden * tokens.element_size()
    return rows < config.hidden and kept <= FOLDED_BYTES


# Self-attention of text and video over all their tokens, wherever those are: the attention function; q, k, v, taken out
# of the list; the portrait's keys and values -> as attention. `parallel/` has one for tokens on several GPUs.
JointAttention = Callable[[Attention, list[Tensor], KeysValues | None], Tensor]


def attend_here(attention: Attention, qkv: list[Tensor], reference: KeysValues | None) -> Tensor:
    """Self-attention where all tokens are at hand; the portrait's are further keys and values, never queries.

    What was copied beside the portrait's is let go before the next is: hence the list, which leaves the caller none.
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

    def fold(self, keys_values: KeysValues) -> Folded:
        """The layer itself is asked for each head's part, so it may keep its weight in any form.

        Its bias, which may be larger than a head's part, would be what the sum is rounded to. So it is asked for a
        large multiple, in which the bias is small, and for the opposite: half the difference is without the bias.
        """
        keys, values = keys_values
        *_, heads, _, width = values.shape
        wide = torch.promote_types(keys.dtype, torch.float32)
        alone = torch.diag_embed(values.movedim(-3, -1), dim1=-4, dim2=-2)  # ... h n h d, zero but for the own head
        bias, factor = self.out(values.new_zeros(heads * width)), FACTORS.get(values.dtype, 1)
        alone = alone.flatten(-2) * factor
        rows = (self.out(alone).to(wide) - self.out(-alone)) / (2 * factor)
        rows = rows.to(bias.dtype).flatten(-3, -2)
        end = F.pad(bias[None], (0, 0, 0, BIAS_ROWS - 1)).expand(*rows.shape[:-2], -1, -1)
        return Folded(keys.to(wide) * width**-0.5, torch.cat((rows, end), dim=-2))
