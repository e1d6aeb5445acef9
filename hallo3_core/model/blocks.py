"""One transformer layer as released: joint self-attention with reference keys and values, face attention, audio
attention, MLP. `variants.py` has the layers of the paper's ablations."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .attention import (
    Attention,
    CrossAttention,
    Folded,
    JointAttention,
    KeysValues,
    SelfAttention,
    attend_here,
    join_heads,
    split_heads,
)
from .conditioning import Adaption
from .config import TransformerConfig
from .in_place import gelu, normed_and_rotated
from .modulation import Affine, LayerModulation, modulate
from .positions import Layout

LayerCondition = KeysValues | Folded | Adaption  # a condition's tokens as one layer reads them; computed once


class LayerConditions(NamedTuple):
    """The conditions of one layer. None: the layer goes without.

    In training, each is the features ``b n D`` or tokens themselves. The layer then computes keys and values from
    them, with gradients, and stores none of them if it is checkpointed.
    """

    reference: KeysValues | Tensor | None = None
    face: LayerCondition | Tensor | None = None
    audio: LayerCondition | Tensor | None = None


class FeedForward(nn.Module):
    """MLP: ``... D -> ... D`` through 4 D, with GELU (tanh approximation)."""

    def __init__(self, hidden: int, inner: int, *, operations=nn, device=None, dtype=None):
        super().__init__()
        self.up = operations.Linear(hidden, inner, device=device, dtype=dtype)
        self.down = operations.Linear(inner, hidden, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gelu(self.up(x)))  # the largest activation


class Block(nn.Module):
    """One layer of the released transformer.

    forward: video ``b n D``, text ``b m D`` -> the same. Text precedes video wherever the two are concatenated.
    """

    def __init__(self, config: TransformerConfig, attention: Attention, *, operations=nn, device=None, dtype=None):
        super().__init__()
        self.heads, self.attention = config.heads, attention
        kw = dict(device=device, dtype=dtype)
        layers = dict(operations=operations, **kw)
        self.attention_norm = operations.LayerNorm(config.hidden, eps=1e-5, **kw)
        self.self_attention = SelfAttention(config.hidden, **layers)
        self.query_norm = operations.LayerNorm(config.head, eps=1e-6, **kw)  # both are shared by all three attentions
        self.key_norm = operations.LayerNorm(config.head, eps=1e-6, **kw)
        if config.reads.face == "cross":
            self.face_norm = operations.LayerNorm(config.hidden, eps=1e-5, **kw)
            self.face_attention = CrossAttention(config.hidden, config.face, **layers)
        if config.reads.audio == "cross":
            self.audio_norm = operations.LayerNorm(config.hidden, eps=1e-5, **kw)
            self.audio_attention = CrossAttention(config.hidden, config.audio, **layers)
        self.mlp_norm = operations.LayerNorm(config.hidden, eps=1e-5, **kw)
        self.mlp = FeedForward(config.hidden, config.mlp, **layers)

    # Computed once

    def reference_keys_values(self, features: Tensor) -> KeysValues:
        """Keys and values of the portrait's features ``b n D``, which are not normalised, modulated or rotated."""
        _, keys, values = self._queries_keys_values(features)
        return KeysValues(self.key_norm(keys), values.contiguous())  # a view would keep queries and keys alive

    def face_keys_values(self, tokens: Tensor, fold: bool = False) -> LayerCondition:
        """Keys and values of face tokens ``b n c``: one set for all frames of all clips."""
        return self._cross_keys_values(self.face_attention, tokens, fold)

    def audio_keys_values(self, tokens: Tensor, fold: bool = False) -> LayerCondition:
        """Keys and values of audio tokens ``b t n c``: one set per latent frame."""
        return self._cross_keys_values(self.audio_attention, tokens, fold)

    # Computed at every step

    def forward(
        self,
        video: Tensor,
        text: Tensor,
        modulation: LayerModulation,
        layout: Layout,
        conditions: LayerConditions = LayerConditions(),  # noqa: B008 (immutable)
        *,
        joint_attention: JointAttention = attend_here,
        text_ends: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Face and audio change only the video, without a gate.

        text_ends: nothing reads the text after this layer. It then only provides keys and values, and None is returned
        for it.
        """
        reference, face, audio = self.keys_values(conditions)
        video, text = self.attend(
            video, text, modulation, layout, reference, joint_attention=joint_attention, text_ends=text_ends
        )
        if face is not None:
            video = video + self.attend_face(video, layout, face)
        if audio is not None:
            video = video + self.attend_audio(video, layout, audio)
        return self.feed_forward(video, text, modulation)

    def keys_values(self, conditions: LayerConditions) -> LayerConditions:
        """The same conditions, with keys and values for those that are still features or tokens."""
        reference, face, audio = conditions
        return LayerConditions(
            self.reference_keys_values(reference) if isinstance(reference, Tensor) else reference,
            self.face_keys_values(face) if isinstance(face, Tensor) else face,
            self.audio_keys_values(audio) if isinstance(audio, Tensor) else audio,
        )

    def attend(
        self,
        video: Tensor,
        text: Tensor,
        modulation: LayerModulation,
        layout: Layout,
        reference: KeysValues | None,
        *,
        joint_attention: JointAttention = attend_here,
        text_ends: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Joint self-attention of text and video, with the reference tokens as extra keys and values, never queries."""
        m, n = text.shape[1], video.shape[1]
        q, k, v = self._queries_keys_values(self.modulated(video, text, modulation))
        q = normed_and_rotated(self.query_norm, q[:, :, m:] if text_ends else q, layout.rotary, n)
        k = normed_and_rotated(self.key_norm, k, layout.rotary, n)
        qkv = [q, k, v]
        del q, k, v
        out = self.self_attention.out(join_heads(joint_attention(self.attention, qkv, reference)))
        video = torch.addcmul(video, modulation.video_attention.gate, out[:, -n:])
        return video, None if text_ends else torch.addcmul(text, modulation.text_attention.gate, out[:, :m])

    def attend_face(self, video: Tensor, layout: Layout, face: KeysValues | Folded) -> Tensor:
        """Every frame's queries, with the first frame's rotary positions, over the same few face tokens; ``b n D``."""
        q = self._frame_queries(self.face_attention, self.face_norm(video), layout)  # b t h n d
        q = q.transpose(1, 2).flatten(2, 3)
        if isinstance(face, Folded):
            return face.attend(q)
        k, v = (x.expand(q.shape[0], -1, -1, -1) for x in face)
        return self.face_attention.out(join_heads(self.attention(q, k, v)))

    def attend_audio(self, video: Tensor, layout: Layout, audio: KeysValues | Folded) -> Tensor:
        """Each frame's queries, with the first frame's rotary positions, over its own audio tokens; ``b n D``."""
        q = self._frame_queries(self.audio_attention, self.audio_norm(video), layout)
        if isinstance(audio, Folded):
            return audio.attend(q).flatten(1, 2)
        k, v = (x.expand(q.shape[0], -1, -1, -1, -1).flatten(0, 1) for x in audio)
        out = join_heads(self.attention(q.flatten(0, 1), k, v))  # (b t) n D
        return self.audio_attention.out(out.reshape(video.shape))

    def feed_forward(
        self, video: Tensor, text: Tensor | None, modulation: LayerModulation
    ) -> tuple[Tensor, Tensor | None]:
        """One norm and one MLP for both streams, each with its own modulation and gate."""
        video = self._feed_forward(video, modulation.video_mlp)
        return video, None if text is None else self._feed_forward(text, modulation.text_mlp)

    def modulated(self, video: Tensor, text: Tensor, modulation: LayerModulation) -> Tensor:
        """Both streams, normalised, modulated and concatenated for self-attention: ``b (m + n) D``."""
        return torch.cat((self.modulated_text(text, modulation), self.modulated_video(video, modulation)), dim=1)

    def modulated_video(self, video: Tensor, modulation: LayerModulation) -> Tensor:
        """The video, normalised and modulated: ``b n D``. The reference network returns this as its
        features for the denoiser."""
        shift, scale, _ = modulation.video_attention
        return modulate(self.attention_norm(video), shift, scale)

    def modulated_text(self, text: Tensor, modulation: LayerModulation) -> Tensor:
        shift, scale, _ = modulation.text_attention
        return modulate(self.attention_norm(text), shift, scale)

    def _feed_forward(self, x: Tensor, affine: Affine) -> Tensor:
        return torch.addcmul(x, affine.gate, self.mlp(modulate(self.mlp_norm(x), affine.shift, affine.scale)))

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``b n D -> b h n d``, three times."""
        q, k, v = self.self_attention.qkv(x).chunk(3, dim=-1)
        return split_heads(q, self.heads), split_heads(k, self.heads), split_heads(v, self.heads)

    def _cross_keys_values(self, attention: CrossAttention, tokens: Tensor, fold: bool) -> KeysValues | Folded:
        keys, values = (split_heads(x, self.heads) for x in attention.key_value(tokens).chunk(2, dim=-1))
        keys_values = KeysValues(self.key_norm(keys), values.contiguous())
        return attention.fold(keys_values) if fold else keys_values

    def _frame_queries(self, attention: CrossAttention, video: Tensor, layout: Layout) -> Tensor:
        """``b (t n) D -> b t h n d``"""
        q = split_heads(attention.query(video).unflatten(1, (layout.grid.frames, -1)), self.heads)
        return normed_and_rotated(self.query_norm, q, layout.frame_rotary, q.shape[-2])
