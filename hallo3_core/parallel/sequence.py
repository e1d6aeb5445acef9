"""A denoiser divided over several GPUs, each with a strip of the picture.

Every process has all frames of a clip and part of each frame's tokens, so embedding, norms, face and audio attention,
the MLP and the output head need nothing from the others. The text's tokens are divided like the video's. Only
self-attention needs all tokens: for it, heads are exchanged for tokens and back (DeepSpeed-Ulysses, Jacobs et al.
2023). Each process keeps the portrait's keys and values for its own heads only, so they are never sent.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..errors import InputError
from ..model.attention import Attention, JointAttention, KeysValues, attend_here
from ..model.blocks import LayerCondition
from ..model.config import Grid
from ..model.denoiser import Conditions, Denoiser, ReferenceBank
from ..model.modulation import Modulation
from ..model.positions import Layout, Rotary
from .groups import Group, shares, start_of


class SequenceDenoiser:
    """A denoiser of which every process of `group` computes a strip. All call every method with the same values. They
    get what their strip needs (`layout`, `embed_text`, `reference_keys_values`), and the whole velocity from the call.

    Everything else is the denoiser's own.
    """

    def __init__(self, denoiser: Denoiser, group: Group):
        self._denoiser, self._group = denoiser, group
        self._texts = shares(denoiser.config.text_tokens, group.size)
        self._heads = shares(denoiser.config.heads, group.size)

    def __getattr__(self, name: str):
        return getattr(self._denoiser, name)

    def layout(self, grid: Grid, dtype: torch.dtype, device: torch.device | str | None = None) -> Layout:
        """Positions of this process's tokens; its grid is a strip one token high.

        Raises:
            InputError: more processes than there are tokens in a frame, tokens of text, or heads.
        """
        self._check(grid)
        whole, rank = self._denoiser.layout(grid, dtype, device), self._group.rank
        tokens = shares(grid.tokens_per_frame, self._group.size)
        strip = Grid(grid.frames, 1, tokens[rank])

        def own(table: Tensor) -> Tensor:
            frames = table.unflatten(0, (grid.frames, -1))
            return frames.narrow(1, start_of(tokens, rank), tokens[rank]).flatten(0, 1).contiguous()

        rotary = Rotary(*map(own, whole.rotary))
        return Layout(
            grid=strip,
            text=self._own_text(whole.text, 0),
            video=own(whole.video),
            rotary=rotary,
            frame_rotary=rotary.first_frame(strip),
        )

    def joint_attention(self, frames: int, tokens_per_frame: int) -> JointAttention:
        """Self-attention over the tokens of all processes, for a clip with this many latent frames and tokens per
        frame."""
        if self._group.size == 1:
            return attend_here
        videos = [frames * n for n in shares(tokens_per_frame, self._group.size)]
        return partial(attend_over_heads, self._group, self._heads, videos, self._texts)

    def embed_text(self, text: Tensor) -> Tensor:
        """``b m text_width ->`` this process's tokens of ``b m D``"""
        return self._denoiser.embed_text(self._own_text(text, 1))

    def reference_keys_values(self, bank: ReferenceBank | None) -> list[KeysValues] | None:
        """Keys and values of this process's heads."""
        if bank is None:
            return None
        blocks = zip(self._denoiser.blocks, bank, strict=True)  # only one layer at a time is complete
        return [self._own_heads(block.reference_keys_values(features)) for block, features in blocks]

    def audio_keys_values(self, tokens: Tensor | None) -> list[LayerCondition] | None:
        """Those of this process's heads where the sound's tokens stand in self-attention; else all."""
        kept = self._denoiser.audio_keys_values(tokens)
        if kept is None or self._denoiser.config.reads.audio != "self":
            return kept
        return [self._own_heads(keys_values) for keys_values in kept]

    def __call__(
        self, latent: Tensor, concat: Tensor, conditions: Conditions, modulation: Modulation, layout: Layout
    ) -> Tensor:
        frames, height, width = latent.shape[-3:]
        patch = self._denoiser.config.patch
        tokens_per_frame = height * width // patch**2
        velocity = self._denoiser(
            self._strip(latent),
            self._strip(concat),
            conditions,
            modulation,
            layout,
            self.joint_attention(frames, tokens_per_frame),
        )
        tokens = shares(tokens_per_frame, self._group.size)
        strips = self._group.gather(velocity, velocity.ndim - 1, [n * patch for n in tokens])
        return from_strip(strips, height, width, patch)

    def _strip(self, latent: Tensor) -> Tensor:
        patch = self._denoiser.config.patch
        strip = to_strip(latent, patch)
        sizes = [n * patch for n in shares(strip.shape[-1] // patch, self._group.size)]
        return strip.narrow(-1, start_of(sizes, self._group.rank), sizes[self._group.rank])

    def _own_heads(self, whole: KeysValues) -> KeysValues:
        start, count = start_of(self._heads, self._group.rank), self._heads[self._group.rank]
        return KeysValues(*(x.narrow(1, start, count).contiguous() for x in whole))

    def _own_text(self, text: Tensor, dim: int) -> Tensor:
        return text.narrow(dim, start_of(self._texts, self._group.rank), self._texts[self._group.rank])

    def _check(self, grid: Grid) -> None:
        limits = {"tokens in a frame": grid.tokens_per_frame, "tokens of text": sum(self._texts)}
        for what, count in {**limits, "attention heads": sum(self._heads)}.items():
            if count < self._group.size:
                raise InputError(f"{self._group.size} GPUs share {count} {what}: use {count} GPUs or fewer")


def attend_over_heads(
    group: Group,
    heads: list[int],
    videos: list[int],
    texts: list[int],
    attention: Attention,
    qkv: list[Tensor],
    reference: KeysValues | None,
) -> Tensor:
    """Self-attention where each process has all `heads` of some tokens, and computes some heads of all tokens.

    `heads`, `videos` and `texts` are the counts of each process; reference keys and values are those of its own heads.
    Queries may be the video's alone. The order of tokens does not matter to attention.
    """
    v, k, q = qkv.pop(), qkv.pop(), qkv.pop()
    keys = [text + video for text, video in zip(texts, videos, strict=True)]
    queries = keys if q.shape[2] == keys[group.rank] else videos
    batch, width, own = q.shape[0], q.shape[3], heads[group.rank]
    parcels = zip(*(x.split(heads, dim=1) for x in (q, k, v)), strict=True)
    shapes = [[(batch, own, n, width) for n in (nq, nk, nk)] for nq, nk in zip(queries, keys, strict=True)]
    received = zip(*group.exchange(list(parcels), shapes), strict=True)
    out = attend_here(attention, [torch.cat(tokens, dim=2) for tokens in received], reference)
    parcels = [[part] for part in out.split(queries, dim=2)]
    shapes = [[(batch, count, queries[group.rank], width)] for count in heads]
    return torch.cat([part for (part,) in group.exchange(parcels, shapes)], dim=1)


def to_strip(latent: Tensor, patch: int) -> Tensor:
    """``b k t (r p) (c p) -> b k t p (r c p)``: the rows of tokens one after another."""
    rows = latent.unflatten(-2, (-1, patch)).transpose(-3, -2)  # b k t p r w
    return rows.flatten(-2)


def from_strip(strip: Tensor, height: int, width: int, patch: int) -> Tensor:
    """The inverse of `to_strip`."""
    return strip.unflatten(-1, (height // patch, width)).transpose(-3, -2).flatten(-3, -2)
