"""The layers of the paper's ablations, which read face or audio by adaptive norms or as further tokens.

Both act before the released layer begins: adaptive norms change its modulation, and further tokens join the portrait's.
"""

from __future__ import annotations

from torch import Tensor, nn

from .attention import Attention, KeysValues, further
from .blocks import Block, LayerCondition, LayerConditions
from .conditioning import Adaption, AdaptiveNorm, FurtherTokens
from .config import Grid, TransformerConfig
from .modulation import LayerModulation
from .positions import Layout


def block_for(config: TransformerConfig) -> type[Block]:
    """The class of the denoiser's layers."""
    return VariantBlock if {config.reads.face, config.reads.audio} & {"norm", "self"} else Block


class VariantBlock(Block):
    """A layer that reads face, audio or both in another way than the release. forward: as `Block`."""

    def __init__(self, config: TransformerConfig, attention: Attention, *, operations=nn, device=None, dtype=None):
        kw = dict(operations=operations, device=device, dtype=dtype)
        super().__init__(config, attention, **kw)
        self.reads = config.reads
        if self.reads.face == "norm":
            self.face_adaption = AdaptiveNorm(config.hidden, config.face, **kw)
        if self.reads.audio == "norm":
            self.audio_adaption = AdaptiveNorm(config.hidden, config.audio, **kw)
        if self.reads.audio == "self":
            self.audio_tokens = FurtherTokens(config.hidden, config.audio, config.grid.frames, **kw)

    def face_keys_values(self, tokens: Tensor, fold: bool = False) -> LayerCondition:
        if self.reads.face == "norm":
            return self.face_adaption(tokens[:, None])
        return super().face_keys_values(tokens, fold)

    def audio_keys_values(self, tokens: Tensor, fold: bool = False) -> LayerCondition:
        if self.reads.audio == "norm":
            return self.audio_adaption(tokens)
        if self.reads.audio == "self":
            return self.reference_keys_values(self.audio_tokens(tokens))
        return super().audio_keys_values(tokens, fold)

    def forward(
        self,
        video: Tensor,
        text: Tensor,
        modulation: LayerModulation,
        layout: Layout,
        conditions: LayerConditions = LayerConditions(),  # noqa: B008 (immutable)
        **options,
    ) -> tuple[Tensor, Tensor | None]:
        reference, face, audio = self.keys_values(conditions)
        if isinstance(face, Adaption):
            modulation, face = adapted(modulation, face, layout.grid), None
        if isinstance(audio, Adaption):
            modulation, audio = adapted(modulation, audio, layout.grid), None
        if self.reads.audio == "self" and isinstance(audio, KeysValues):
            reference, audio = further(reference, audio), None
        return super().forward(video, text, modulation, layout, LayerConditions(reference, face, audio), **options)


def adapted(modulation: LayerModulation, adaption: Adaption, grid: Grid) -> LayerModulation:
    """Adds a condition's rows to the video's modulation, repeated for each token if they differ between frames."""
    rows = adaption.rows
    if rows.shape[1] > 1:
        rows = rows.repeat_interleave(grid.tokens_per_frame, dim=1)
    return modulation.with_video(rows)
