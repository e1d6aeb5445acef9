"""How the denoiser reads its conditions: the released way, and the others that the paper's ablations compare.

"cross", the released way for sound and face, is `attention.CrossAttention`; its two alternatives are here. The paper
names both and its figures of them are lost, so "self" and "norm" are our reading of two words, as is every choice below
that they leave open. A kind adds modules and one step to each block; the steps of the other kinds are not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

METADATA = "conditioning"  # in a file: what is not the released way, as JSON
ROWS = 6  # (shift, scale, gate) x (attention, MLP), of the video alone


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is conditioned on, and how; the defaults are the released model.

    audio: by cross-attention in each latent frame, as further tokens of self-attention, by adaptive norms, or not at
    all. face: by cross-attention, adaptive norms, or not at all. reference: whether a reference network reads the
    portrait. motion_frames: how many frames of the clip before a clip begins from.
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
        """For a file's metadata; nothing for the released way, whose files are as they always were."""
        return {} if self == RELEASED else {METADATA: json.dumps(asdict(self))}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Conditioning:
        """What `metadata` wrote.

        Raises:
            ValueError: it is damaged, or of a version that knows more.
        """
        try:
            told = json.loads(metadata.get(METADATA, "{}"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"its {METADATA} is not JSON ({error})") from error
        if not isinstance(told, dict) or not told.keys() <= {field.name for field in fields(cls)}:
            raise ValueError(f"its {METADATA} is {str(told)[:80]!a}, which this version does not know")
        try:
            return cls(**told)
        except TypeError as error:
            raise ValueError(f"its {METADATA} is damaged ({error})") from error


RELEASED = Conditioning()


class Adaption(NamedTuple):
    """What tokens add to the modulation of the video: ``b t 6 D``, with t = 1 for what all frames share."""

    rows: Tensor


class AdaptiveNorm(nn.Module):
    """Reads tokens as "norm": their mean, a latent frame each, goes through one matrix to what is added to the
    timestep's shift, scale and gate of the video, in both halves of the layer.

    forward: ``b t n c -> b t 6 D``
    """

    def __init__(self, hidden: int, width: int, *, operations=nn, device=None, dtype=None):
        super().__init__()
        self.linear = operations.Linear(width, ROWS * hidden, device=device, dtype=dtype)

    def forward(self, tokens: Tensor) -> Adaption:
        return Adaption(self.linear(tokens.mean(dim=-2)).unflatten(-1, (ROWS, -1)))


class FramePositions(nn.Module):
    """A learned vector for each latent frame. forward: features ``b t n D`` -> with their frame's added"""

    def __init__(self, frames: int, hidden: int, *, device=None, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(frames, hidden, device=device, dtype=dtype))

    def forward(self, features: Tensor) -> Tensor:
        own = self.weight[: features.shape[1], None]
        return features + own.to(features.device, features.dtype)  # a host may leave the table elsewhere


class FurtherTokens(nn.Module):
    """Reads tokens as "self": those of all frames, at the width of the video and each with its frame's learned
    position, are to self-attention what the portrait's features are: keys and values, never queries.

    forward: ``b t n c -> b (t n) D``
    """

    def __init__(self, hidden: int, width: int, frames: int, *, operations=nn, device=None, dtype=None):
        super().__init__()
        self.proj = operations.Linear(width, hidden, device=device, dtype=dtype)
        self.positions = FramePositions(frames, hidden, device=device, dtype=dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.positions(self.proj(tokens)).flatten(1, 2)
