"""How the denoiser reads its conditions: as in the release, or as in the other variants of the paper's ablations.

"cross", which the release uses for audio and face, is `attention.CrossAttention`. Its two alternatives are here. The
paper only names them and its figures of them are lost, so "self" and "norm" are our interpretation of the names, and so
is every detail below. Each kind adds its own modules and one step to each block, and nothing of the other kinds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

METADATA = "conditioning"  # key in a file's metadata: conditioning that differs from the release, as JSON
MARK = "hallo3_conditioning"  # a tensor with the same JSON as bytes, for programs that write tensors alone
ROWS = 6  # (shift, scale, gate) x (attention, MLP), only for the video


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is conditioned on, and how. The defaults are the released model's.

    audio: "cross", cross-attention in each latent frame; "self", extra tokens in self-attention; "norm", adaptive
    norms; or "none".
    face: "cross", cross-attention; "norm", adaptive norms; or "none".
    reference: whether a reference network reads the portrait.
    motion_frames: how many frames of the previous clip a clip starts from.
    """

    audio: Literal["cross", "self", "norm", "none"] = "cross"
    face: Literal["cross", "norm", "none"] = "cross"
    reference: bool = True
    motion_frames: Literal[1, 2, 4] = 2

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("audio", self.audio, ("cross", "self", "norm", "none")),
            ("face", self.face, ("cross", "norm", "none")),
            ("reference", self.reference, (True, False)),
            ("motion_frames", self.motion_frames, (1, 2, 4)),
        ):
            if value not in choices or isinstance(value, bool) != isinstance(choices[0], bool):
                raise ValueError(f"{name} is {value!r}: choose one of {', '.join(map(str, choices))}")

    def metadata(self) -> dict[str, str]:
        """The entry for a file's metadata; empty for the released conditioning, whose files have none."""
        return {} if self == RELEASED else {METADATA: json.dumps(asdict(self))}

    def mark(self) -> dict[str, Tensor]:
        """The same as a tensor, by its name; empty for the released conditioning."""
        text = self.metadata().get(METADATA)
        return {} if text is None else {MARK: torch.tensor(list(text.encode()), dtype=torch.uint8)}

    @classmethod
    def from_mark(cls, mark: Tensor) -> Conditioning:
        """Parses what `mark` wrote.

        Raises:
            ValueError: as `from_metadata`.
        """
        return cls.from_metadata({METADATA: bytes(mark.flatten().tolist()).decode(errors="replace")})

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Conditioning:
        """Parses what `metadata` wrote.

        Raises:
            ValueError: it is damaged, or has fields from a newer version.
        """
        try:
            stored = json.loads(metadata.get(METADATA, "{}"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"its {METADATA} is not JSON ({error})") from error
        if not isinstance(stored, dict) or not stored.keys() <= {field.name for field in fields(cls)}:
            raise ValueError(f"its {METADATA} is {str(stored)[:80]!a}, which this version does not know")
        try:
            return cls(**stored)
        except TypeError as error:
            raise ValueError(f"its {METADATA} is damaged ({error})") from error


RELEASED = Conditioning()


class Adaption(NamedTuple):
    """What tokens add to the video's modulation: ``b t 6 D``, with t = 1 if all frames share it."""

    rows: Tensor


class AdaptiveNorm(nn.Module):
    """The "norm" kind: one linear layer maps the mean token of each latent frame to offsets. They are added to the
    video's shift, scale and gate from the timestep, in both halves of the layer.

    forward: ``b t n c -> b t 6 D``
    """

    def __init__(self, hidden: int, width: int, *, operations=nn, device=None, dtype=None):
        super().__init__()
        self.linear = operations.Linear(width, ROWS * hidden, device=device, dtype=dtype)

    def forward(self, tokens: Tensor) -> Adaption:
        return Adaption(self.linear(tokens.mean(dim=-2)).unflatten(-1, (ROWS, -1)))


class FramePositions(nn.Module):
    """A learned vector per latent frame. forward: features ``b t n D`` -> the same, plus their frame's vector."""

    def __init__(self, frames: int, hidden: int, *, device=None, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(frames, hidden, device=device, dtype=dtype))

    def forward(self, features: Tensor) -> Tensor:
        own = self.weight[: features.shape[1], None]
        return features + own.to(features.device, features.dtype)  # a host may leave the table on another device


class FurtherTokens(nn.Module):
    """The "self" kind: projects the tokens of all frames to the video's width and adds their frame's learned position.
    Self-attention then reads them like the portrait's features: as keys and values, never as queries.

    forward: ``b t n c -> b (t n) D``
    """

    def __init__(self, hidden: int, width: int, frames: int, *, operations=nn, device=None, dtype=None):
        super().__init__()
        self.proj = operations.Linear(width, hidden, device=device, dtype=dtype)
        self.positions = FramePositions(frames, hidden, device=device, dtype=dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.positions(self.proj(tokens)).flatten(1, 2)
