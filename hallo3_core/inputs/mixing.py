"""Downmixes channels to mono or stereo by their speaker positions, as media players do.

Source: the usual downmix (ITU-R BS.775): centre and surrounds at -3 dB on either side, no low-frequency channel, scaled
to avoid clipping. Mono is the mean of left and right.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

HALF = 0.5**0.5  # -3 dB
_PLACES = {
    **{name: (1.0, 0.0) for name in ("FL", "FLC", "DL")},
    **{name: (0.0, 1.0) for name in ("FR", "FRC", "DR")},
    "FC": (HALF, HALF),
    "AMBI0": (1.0, 1.0),  # ambisonic: the omnidirectional channel; the others are differences
}
# Default speakers by number of channels, if the file does not name them.
_USUAL = {
    1: ("FC",),
    2: ("FL", "FR"),
    3: ("FL", "FR", "FC"),
    4: ("FL", "FR", "BL", "BR"),
    5: ("FL", "FR", "FC", "BL", "BR"),
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    7: ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}


def speakers(names: Sequence[str], count: int) -> tuple[str, ...]:
    """The speakers of `count` channels: those named by the file, else the default ones; empty if there are none."""
    known = len(names) == count and all(_place(name) is not None for name in names)
    return tuple(names) if known else _USUAL.get(count, ())


def stereo_weights(names: Sequence[str], count: int) -> Tensor:
    """Each channel's weights in left and right, ``2 channels``. Unknown speakers go equally to both."""
    found = speakers(names, count)
    weights = torch.tensor([_place(name) for name in found] if found else [(1.0, 1.0)] * count, dtype=torch.float64).T
    if not weights.any():  # low frequencies alone
        weights = torch.ones_like(weights)
    return (weights / weights.sum(1).max()).float()


def mono_weights(names: Sequence[str], count: int) -> Tensor:
    """Each channel's weight in the mono mix, ``channels``; the weights sum to 1."""
    both = stereo_weights(names, count).double().mean(0)
    return (both / both.sum()).float()


def mixed(waveform: Tensor, weights: Tensor) -> Tensor:
    """Applies mixing weights: ``channels samples, outputs channels -> outputs samples``"""
    return (weights[:, :, None] * waveform).sum(1)


def _place(name: str) -> tuple[float, float] | None:
    """A speaker's weights in left and right; None for an unknown name."""
    if name in _PLACES:
        return _PLACES[name]
    if name.startswith(("LFE", "AMBI")):
        return 0.0, 0.0
    if name == "NONE" or not name.isalpha() or not name.isupper():
        return None
    side = {"L": (HALF, 0.0), "R": (0.0, HALF), "C": (0.5, 0.5)}
    return side.get(name[-1])
