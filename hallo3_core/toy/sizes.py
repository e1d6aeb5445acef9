"""The sizes of the trained toy release: the released architecture, small enough to train on two cores and to ship."""

from __future__ import annotations

from dataclasses import dataclass

from ..inputs.audio import WINDOW
from ..model.config import AudioProjectorConfig, FaceProjectorConfig, Grid, TransformerConfig
from ..vae.autoencoder import VaeConfig


@dataclass(frozen=True)
class Sizes:
    """All sizes in one place, so that the networks agree on the tensors they exchange."""

    height: int = 96  # pixels: the released aspect ratio 2:3
    width: int = 144
    vae: tuple[int, ...] = (32, 32, 64, 96)  # channels, from fine to coarse; group norm has 32 groups

    hidden: int = 160
    heads: int = 5
    layers: int = 4
    time: int = 64

    text_width: int = 32
    text_tokens: int = 32
    text_layers: int = 2
    text_heads: int = 4
    text_inner: int = 64

    audio_layers: int = 3  # of wav2vec2; the denoiser uses all of them
    audio_width: int = 64
    audio_heads: int = 4
    audio_channels: int = 64  # of its convolutions
    audio_inner: int = 128  # of the audio projector
    audio_tokens: int = 4
    audio_token_width: int = 64

    face_embedding: int = 512
    face_tokens: int = 4
    face_token_width: int = 64

    @property
    def vae_config(self) -> VaeConfig:
        return VaeConfig(block_out_channels=self.vae, layers_per_block=1)

    @property
    def transformer(self) -> TransformerConfig:
        """The denoiser's configuration; the reference network's is the same without face and audio attention."""
        return TransformerConfig(
            hidden=self.hidden,
            heads=self.heads,
            layers=self.layers,
            mlp=4 * self.hidden,
            time=self.time,
            text_width=self.text_width,
            text_tokens=self.text_tokens,
            grid=Grid(13, self.height // 16, self.width // 16),
            channels=16,
            patch=2,
            face=self.face_token_width,
            audio=self.audio_token_width,
        )

    @property
    def audio_projector(self) -> AudioProjectorConfig:
        inputs = WINDOW * self.audio_layers * self.audio_width
        return AudioProjectorConfig(inputs, self.audio_inner, self.audio_tokens, self.audio_token_width)

    @property
    def face_projector(self) -> FaceProjectorConfig:
        return FaceProjectorConfig(self.face_embedding, self.face_tokens, self.face_token_width)


LEARNT = Sizes()
