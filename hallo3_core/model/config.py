"""Network sizes, derived from the shapes of the tensors, so a toy of two layers loads with the release's code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .conditioning import RELEASED, Conditioning

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """Size of a clip in tokens: latent frames, and rows and columns of 2x2 latent pixels (16x16 image pixels)."""

    frames: int
    rows: int
    columns: int

    @property
    def tokens_per_frame(self) -> int:
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        return self.frames * self.rows * self.columns


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of CogVideoX-5B-I2V's transformer, or of Hallo3's denoiser if `face` and `audio` have widths."""

    hidden: int  # 3072
    heads: int  # 48
    layers: int  # 42
    mlp: int  # 12288
    time: int  # width of the timestep embedding: 512
    text_width: int  # T5-XXL: 4096
    text_tokens: int  # 226
    grid: Grid  # the trained one: 13 x 30 x 45
    channels: int  # of the latent: 16; the network reads twice as many (noisy and concat)
    patch: int  # 2
    face: int | None  # width of a face token: 1024; None: the network reads no face
    audio: int | None  # width of an audio token: 768; None: the network reads no audio
    conditioning: Conditioning = RELEASED  # how it reads face, audio and portrait

    @property
    def head(self) -> int:
        return self.hidden // self.heads

    def __post_init__(self) -> None:
        """Raises ValueError if there is a token width for tokens that the conditioning does not read."""
        for name in ("face", "audio"):
            width = getattr(self, name)
            if width is not None and getattr(self.conditioning, name) == "none":
                raise ValueError(f"{name} tokens of width {width}, but the conditioning reads none")

    @property
    def reads(self) -> Conditioning:
        """What the network is actually conditioned on: a condition without a width counts as "none"."""
        absent = {name: "none" for name in ("face", "audio") if getattr(self, name) is None}
        return replace(self.conditioning, **absent)

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Shape], conditioning: Conditioning = RELEASED) -> TransformerConfig:
        """Derives the sizes from the shapes of tensors with this project's names (see `weights/names.py`).

        The tensors also determine how face and audio are read. `conditioning` supplies what they do not determine.

        Raises:
            KeyError: a tensor that determines a size is missing.
        """
        frames, rows, columns, hidden = shapes["video_positions"]
        text_tokens = shapes["text_positions"][0]
        _, channels, patch, _ = shapes["patch_embed.weight"]
        layers = sum(name.startswith("modulation.blocks.") and name.endswith(".weight") for name in shapes)
        (face_kind, face), (audio_kind, audio) = _width(shapes, FACE_MARKS), _width(shapes, AUDIO_MARKS)
        kinds = {"face": face_kind, "audio": audio_kind}
        return cls(
            hidden=hidden,
            heads=hidden // shapes["blocks.0.query_norm.weight"][0],
            layers=layers,
            mlp=shapes["blocks.0.mlp.up.weight"][0],
            time=shapes["modulation.time.0.weight"][0],
            text_width=shapes["text_embed.weight"][1],
            text_tokens=text_tokens,
            grid=Grid(frames, rows, columns),
            channels=channels // 2,
            patch=patch,
            face=face,
            audio=audio,
            conditioning=replace(conditioning, **{name: kind for name, kind in kinds.items() if kind}),
        )


# The first block's matrix that reads a condition's tokens, for each kind of reading. Its columns are the token width.
FACE_MARKS = {
    "cross": "blocks.0.face_attention.key_value.weight",
    "norm": "blocks.0.face_adaption.linear.weight",
}
AUDIO_MARKS = {
    "cross": "blocks.0.audio_attention.key_value.weight",
    "self": "blocks.0.audio_tokens.proj.weight",
    "norm": "blocks.0.audio_adaption.linear.weight",
}


def _width(shapes: Mapping[str, Shape], marks: Mapping[str, str]) -> tuple[str | None, int | None]:
    return next(((kind, shapes[mark][1]) for kind, mark in marks.items() if mark in shapes), (None, None))


@dataclass(frozen=True)
class AudioProjectorConfig:
    """Sizes of the audio projector: wav2vec windows to audio tokens."""

    inputs: int  # window 5 x layers 12 x width 768
    inner: int  # 512
    tokens: int  # per latent frame: 32
    width: int  # 768

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Shape]) -> AudioProjectorConfig:
        inner, inputs = shapes["proj1.weight"]
        (width,) = shapes["norm.weight"]
        return cls(inputs=inputs, inner=inner, tokens=shapes["proj3.weight"][0] // width, width=width)


@dataclass(frozen=True)
class FaceProjectorConfig:
    """Sizes of the face projector: ArcFace embedding to face tokens."""

    embedding: int  # 512
    tokens: int  # 4
    width: int  # 1024

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Shape]) -> FaceProjectorConfig:
        (width,) = shapes["norm.weight"]
        rows, embedding = shapes["proj.weight"]
        return cls(embedding=embedding, tokens=rows // width, width=width)
