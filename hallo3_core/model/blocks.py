"""One layer: a list of steps. In the released model: joint self-attention with reference keys and values, face
attention, audio attention, MLP."""

from __future__ import annotations

from collections.abc import Callable
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
    further,
    join_heads,
    split_heads,
)
from .conditioning import Adaption, AdaptiveNorm, FurtherTokens
from .config import TransformerConfig
from .in_place import gelu, normed_and_rotated
from .modulation import Affine, LayerModulation, modulate
from .positions import Layout

Kept = KeysValues | Folded | Adaption  # what is kept of a condition's tokens, by how they are read


class State(NamedTuple):
    """What a layer's steps hand on: the two streams, and what a step has changed for the steps behind it."""

    video: Tensor
    text: Tensor | None
    modulation: LayerModulation
    layout: Layout
    reference: KeysValues | None  # in self-attention: the portrait's tokens, and others beside them
    face: Kept | None
    audio: Kept | None
    joint_attention: JointAttention
    text_ends: bool


Step = Callable[["Block", State], State]


class FeedForward(nn.Module):
    """``... D -> ... D`` through 4 D, GELU in its tanh form."""

    def __init__(self, hidden: int, inner: int, *, operations=nn, device=None, dtype=None):
        super().__init__()
        self.up = operations.Linear(hidden, inner, device=device, dtype=dtype)
        self.down = operations.Linear(inner, hidden, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gelu(self.up(x)))  # the largest tensor there is


class Block(nn.Module):
    """One layer of the transformer. What it reads of face and sound, and how, is which modules and steps it has.

    forward: video ``b n D``, text ``b m D`` -> the same. Text goes before video wherever both are joined.
    """

    steps: tuple[Step, ...]

    def __init__(self, config: TransformerConfig, attention: Attention, *, operations=nn, device=None, dtype=None):
        super().__init__()
        self.heads, self.attention = config.heads, attention
        kw = dict(device=device, dtype=dtype)
        layers = dict(operations=operations, **kw)
        self.attention_norm = operations.LayerNorm(config.hidden, eps=1e-5, **kw)
        self.self_attention = SelfAttention(config.hidden, **layers)
        self.query_norm = operations.LayerNorm(config.head, eps=1e-6, **kw)  # these two serve all three attentions
        self.key_norm = operations.LayerNorm(config.head, eps=1e-6, **kw)
        before: list[Step] = []
        behind: list[Step] = []
        match config.reads.face:
            case "cross":
                self.face_norm = operations.LayerNorm(config.hidden, eps=1e-5, **kw)
                self.face_attention = CrossAttention(config.hidden, config.face, **layers)
                self._keep_face = Block._face_attention_keys_values
                behind.append(Block._read_face)
            case "norm":
                self.face_adaption = AdaptiveNorm(config.hidden, config.face, **layers)
                self._keep_face = Block._face_adaption
                before.append(Block._adapt_to_face)
        match config.reads.audio:
            case "cross":
                self.audio_norm = operations.LayerNorm(config.hidden, eps=1e-5, **kw)
                self.audio_attention = CrossAttention(config.hidden, config.audio, **layers)
                self._keep_audio = Block._audio_attention_keys_values
                behind.append(Block._read_audio)
            case "self":
                self.audio_tokens = FurtherTokens(config.hidden, config.audio, config.grid.frames, **layers)
                self._keep_audio = Block._audio_tokens_keys_values
                before.append(Block._join_audio)
            case "norm":
                self.audio_adaption = AdaptiveNorm(config.hidden, config.audio, **layers)
                self._keep_audio = Block._audio_adaption
                before.append(Block._adapt_to_audio)
        self.steps = (*before, Block._self_attention, *behind, Block._feed_forward_step)
        self.mlp_norm = operations.LayerNorm(config.hidden, eps=1e-5, **kw)
        self.mlp = FeedForward(config.hidden, config.mlp, **layers)

    # What is computed once

    def reference_keys_values(self, features: Tensor) -> KeysValues:
        """The portrait's features ``b n D``, used as they are: neither normalised nor modulated nor rotated."""
        _, keys, values = self._queries_keys_values(features)
        return KeysValues(self.key_norm(keys), values.contiguous())  # a view would keep queries and keys in memory

    def face_keys_values(self, tokens: Tensor, fold: bool = False) -> Kept:
        """What the layer keeps of face tokens ``b n c``: one set for all frames of all clips."""
        return self._keep_face(self, tokens, fold)

    def audio_keys_values(self, tokens: Tensor, fold: bool = False) -> Kept:
        """What it keeps of audio tokens ``b t n c``: a set for each latent frame."""
        return self._keep_audio(self, tokens, fold)

    # What is computed at every step

    def forward(
        self,
        video: Tensor,
        text: Tensor,
        modulation: LayerModulation,
        layout: Layout,
        reference: KeysValues | Tensor | None = None,
        face: KeysValues | Folded | Tensor | None = None,
        audio: KeysValues | Folded | Tensor | None = None,
        *,
        joint_attention: JointAttention = attend_here,
        text_ends: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """`modulation` is this layer's; face and audio act on the video alone, without a gate.

        A condition is keys and values that were computed once, or, in training, the features or tokens themselves:
        then theirs are computed in here, with gradient, and a layer that is checkpointed keeps none of them.

        Where the `text_ends`, since nothing reads it after this block, it is keys and values alone, and None comes out.
        """
        state = State(
            video=video,
            text=text,
            modulation=modulation,
            layout=layout,
            reference=self._kept(reference, self.reference_keys_values),
            face=self._kept(face, self.face_keys_values),
            audio=self._kept(audio, self.audio_keys_values),
            joint_attention=joint_attention,
            text_ends=text_ends,
        )
        del video, text  # a step's result takes their place
        for step in self.steps:
            state = step(self, state)
        return state.video, state.text

    # The steps: each does nothing where its condition is left out

    def _adapt_to_face(self, state: State) -> State:
        return self._adapted(state, state.face)

    def _adapt_to_audio(self, state: State) -> State:
        return self._adapted(state, state.audio)

    def _join_audio(self, state: State) -> State:
        """The sound's tokens stand beside the portrait's: further keys and values, which are no queries."""
        if state.audio is None:
            return state
        return state._replace(reference=further(state.reference, state.audio))

    def _self_attention(self, state: State) -> State:
        video, text = self.attend(
            state.video,
            state.text,
            state.modulation,
            state.layout,
            state.reference,
            joint_attention=state.joint_attention,
            text_ends=state.text_ends,
        )
        return state._replace(video=video, text=text)

    def _read_face(self, state: State) -> State:
        if state.face is None:
            return state
        return state._replace(video=state.video + self.attend_face(state.video, state.layout, state.face))

    def _read_audio(self, state: State) -> State:
        if state.audio is None:
            return state
        return state._replace(video=state.video + self.attend_audio(state.video, state.layout, state.audio))

    def _feed_forward_step(self, state: State) -> State:
        video, text = self.feed_forward(state.video, state.text, state.modulation)
        return state._replace(video=video, text=text)

    # What they compute

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
        """Joint attention of text and video, with the reference tokens as further keys and values, never queries."""
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
        """Every frame's queries, placed as the first frame's, over the same few face tokens; ``b n D``."""
        q = self._frame_queries(self.face_attention, self.face_norm(video), layout)  # b t h n d
        q = q.transpose(1, 2).flatten(2, 3)
        if isinstance(face, Folded):
            return face.attend(q)
        k, v = (x.expand(q.shape[0], -1, -1, -1) for x in face)
        return self.face_attention.out(join_heads(self.attention(q, k, v)))

    def attend_audio(self, video: Tensor, layout: Layout, audio: KeysValues | Folded) -> Tensor:
        """Each frame's queries, placed as the first frame's, over its own audio tokens; ``b n D``."""
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
        """The streams as self-attention reads them, joined: ``b (m n) D``."""
        return torch.cat((self.modulated_text(text, modulation), self.modulated_video(video, modulation)), dim=1)

    def modulated_video(self, video: Tensor, modulation: LayerModulation) -> Tensor:
        """``b n D``; in the reference network these are the features left for the denoiser."""
        shift, scale, _ = modulation.video_attention
        return modulate(self.attention_norm(video), shift, scale)

    def modulated_text(self, text: Tensor, modulation: LayerModulation) -> Tensor:
        shift, scale, _ = modulation.text_attention
        return modulate(self.attention_norm(text), shift, scale)

    def _feed_forward(self, x: Tensor, affine: Affine) -> Tensor:
        return torch.addcmul(x, affine.gate, self.mlp(modulate(self.mlp_norm(x), affine.shift, affine.scale)))

    @staticmethod
    def _kept(condition: Kept | Tensor | None, compute: Callable[[Tensor], Kept]) -> Kept | None:
        return compute(condition) if isinstance(condition, Tensor) else condition

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``b n D -> b h n d``, three times."""
        q, k, v = self.self_attention.qkv(x).chunk(3, dim=-1)
        return split_heads(q, self.heads), split_heads(k, self.heads), split_heads(v, self.heads)

    def _face_attention_keys_values(self, tokens: Tensor, fold: bool) -> KeysValues | Folded:
        return self._cross_keys_values(self.face_attention, tokens, fold)

    def _face_adaption(self, tokens: Tensor, fold: bool) -> Adaption:
        return self.face_adaption(tokens[:, None])

    def _audio_attention_keys_values(self, tokens: Tensor, fold: bool) -> KeysValues | Folded:
        return self._cross_keys_values(self.audio_attention, tokens, fold)

    def _audio_tokens_keys_values(self, tokens: Tensor, fold: bool) -> KeysValues:
        return self.reference_keys_values(self.audio_tokens(tokens))

    def _audio_adaption(self, tokens: Tensor, fold: bool) -> Adaption:
        return self.audio_adaption(tokens)

    def _cross_keys_values(self, attention: CrossAttention, tokens: Tensor, fold: bool) -> KeysValues | Folded:
        keys, values = (split_heads(x, self.heads) for x in attention.key_value(tokens).chunk(2, dim=-1))
        keys_values = KeysValues(self.key_norm(keys), values.contiguous())
        return attention.fold(keys_values) if fold else keys_values

    @staticmethod
    def _adapted(state: State, adaption: Adaption | None) -> State:
        """The video's modulation and what a condition adds to it; where that is a frame's own, a token each."""
        if adaption is None:
            return state
        rows = adaption.rows
        if rows.shape[1] > 1:
            rows = rows.repeat_interleave(state.layout.grid.tokens_per_frame, dim=1)
        return state._replace(modulation=state.modulation.with_video(rows))

    def _frame_queries(self, attention: CrossAttention, video: Tensor, layout: Layout) -> Tensor:
        """``b (t n) D -> b t h n d``"""
        q = split_heads(attention.query(video).unflatten(1, (layout.grid.frames, -1)), self.heads)
        return normed_and_rotated(self.query_norm, q, layout.frame_rotary, q.shape[-2])
