"""The denoiser: CogVideoX-5B-I2V's transformer with reference, face and audio conditions ("Hallo3", section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import (
    Attention,
    JointAttention,
    KeysValues,
    attend_here,
    is_worth_folding,
    scaled_dot_product,
)
from .blocks import LayerCondition, LayerConditions
from .config import TransformerConfig
from .modulation import PER_HEAD, Modulation, modulate
from .positions import Layout
from .trunk import Trunk
from .variants import block_for

ReferenceBank = Sequence[Tensor]  # the reference network's features, one tensor "b n D" per layer


@dataclass(frozen=True)
class Conditions:
    """The conditions of one model call, constant over the steps of a clip.

    text: ``b m D`` (embedded). reference, face, audio: one `LayerCondition` per layer, such as `KeysValues`, for the
    portrait, the face and the clip's audio. A batch of 1 is broadcast to every sample. None leaves a condition out (the
    plain CogVideoX transformer has none). In training, the features and tokens replace the keys and values
    (`Denoiser.live_conditions`).
    """

    text: Tensor
    reference: Sequence[KeysValues | Tensor] | None = None
    face: Sequence[LayerCondition | Tensor] | None = None
    audio: Sequence[LayerCondition | Tensor] | None = None

    def of_layer(self, index: int) -> LayerConditions:
        return LayerConditions(*(c and c[index] for c in (self.reference, self.face, self.audio)))


class Denoiser(Trunk):
    """forward: noisy latent and concat latent ``b 16 t h w`` each -> velocity ``b 16 t h w``.

    Latents are scaled (0.7 x the VAE's). The module keeps no state between calls: conditions, modulation and layout are
    arguments, each computed once by its own method.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        attention: Attention = scaled_dot_product,
        operations=nn,
        device=None,
        dtype=None,
    ):
        kw = dict(device=device, dtype=dtype)
        super().__init__(config, config.layers, block_for(config), attention=attention, operations=operations, **kw)
        self.final_norm = operations.LayerNorm(config.hidden, eps=1e-5, **kw)
        self.head_modulation = operations.Linear(config.time, PER_HEAD * config.hidden, **kw)
        self.head_norm = operations.LayerNorm(config.hidden, eps=1e-6, **kw)
        self.head = operations.Linear(config.hidden, config.channels * config.patch**2, **kw)

    # Computed once

    def modulate_steps(self, timesteps: Tensor, dtype: torch.dtype) -> Modulation:
        """Modulation of all ``n`` steps of a run. The weights of `self.modulation` are not needed afterwards."""
        embedding = self.modulation.embed(timesteps, dtype)
        head = self.head_modulation(F.silu(embedding)).unflatten(-1, (PER_HEAD, -1))
        return Modulation(self.modulation(embedding), head)

    def reference_keys_values(self, bank: ReferenceBank | None) -> list[KeysValues] | None:
        """Called once per portrait; None without a reference network."""
        if bank is None:
            return None
        return [block.reference_keys_values(features) for block, features in zip(self.blocks, bank, strict=True)]

    def face_keys_values(self, tokens: Tensor | None) -> list[LayerCondition] | None:
        """Face tokens ``b n c``, once per portrait; None if the network reads no face."""
        if tokens is None:
            return None
        fold = is_worth_folding(self.config, tokens)
        return [block.face_keys_values(tokens, fold) for block in self.blocks]

    def audio_keys_values(self, tokens: Tensor | None) -> list[LayerCondition] | None:
        """Audio tokens ``b t n c``, once per clip, and once for the null. None if the network reads no audio."""
        if tokens is None:
            return None
        fold = is_worth_folding(self.config, tokens)
        return [block.audio_keys_values(tokens, fold) for block in self.blocks]

    # Computed at every step

    def live_conditions(
        self,
        text: Tensor,
        bank: ReferenceBank | None = None,
        face_tokens: Tensor | None = None,
        audio_tokens: Tensor | None = None,
    ) -> Conditions:
        """Conditions for training: text ``b m text_width``, features ``b n D`` per layer, face tokens ``b n c``, audio
        tokens ``b t n c``. Every layer computes its keys and values from them, so that gradients reach these inputs and
        the matrices that read them."""
        face, audio = (
            tokens if tokens is None else [tokens] * len(self.blocks) for tokens in (face_tokens, audio_tokens)
        )
        return Conditions(self.embed_text(text), bank, face, audio)

    def forward(
        self,
        latent: Tensor,
        concat: Tensor,
        conditions: Conditions,
        modulation: Modulation,
        layout: Layout,
        joint_attention: JointAttention = attend_here,
    ) -> Tensor:
        video = self.embed_video(torch.cat((latent, concat.expand_as(latent)), dim=1), layout)
        text = (conditions.text + layout.text).expand(video.shape[0], -1, -1)
        for i, block in enumerate(self.blocks):
            video, text = block(
                video,
                text,
                modulation.layer(i),
                layout,
                conditions.of_layer(i),
                joint_attention=joint_attention,
                text_ends=i + 1 == len(self.blocks),
            )
        return self.predict(video, modulation, layout)

    def predict(self, video: Tensor, modulation: Modulation, layout: Layout) -> Tensor:
        """Video tokens after the last block ``b (t r c) D`` -> velocity ``b 16 t h w``"""
        video = self.head_norm(self.final_norm(video))
        out = self.head(modulate(video, modulation.head_shift, modulation.head_scale))
        grid, p = layout.grid, self.config.patch
        out = out.unflatten(-1, (-1, p, p)).unflatten(1, (grid.frames, grid.rows, grid.columns))  # b t r c k p q
        return out.permute(0, 4, 1, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
