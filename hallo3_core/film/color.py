"""Matches a clip's colour and contrast to the portrait's, so that long films do not drift.

Each clip continues from the last frames of the previous one, so small changes of colour add up. This module matches the
mean and standard deviation of a clip's pixels to the portrait's, in Oklab, which is perceptually uniform and separates
lightness from hue.

Source: statistics transfer after Reinhard et al., "Color Transfer between Images" (2001); Oklab and its two matrices
from Bjorn Ottosson, "A perceptual color space for image processing" (2020); transfer curve of IEC 61966-2-1 (sRGB).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..inputs.image import Framing, crop_to

RGB_TO_LMS = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
LMS_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
MAX_GAIN = 2.0  # with less than half the portrait's contrast a clip shows something else; more gain amplifies its noise
FLAT = 1e-6  # smallest standard deviation, which avoids division by zero


def check_strength(strength: float) -> None:
    """Raises InputError unless `strength` is in 0..1."""
    if not 0 <= strength <= 1:  # NaN fails too
        raise InputError(f"colour strength is {strength:g}: choose 0 (off) to 1 (held to the portrait).")


def hold_colour(frames: Tensor, portrait: Tensor, framing: Framing, strength: float) -> Tensor:
    """Moves a clip ``n 3 H W`` in 0..1 towards the colour and contrast of the portrait ``1 3 H W`` in -1..1.

    The clip's mean and standard deviation are each fitted by a straight line over its frames. This removes slow drift
    evenly, so that clips still join without a jump, and keeps faster changes such as a blink or a turn of the head. The
    portrait's padding is ignored. strength: 0 changes nothing, 1 matches fully. The result has the device and dtype of
    `frames`.

    Raises:
        InputError: a strength outside 0..1, or a clip whose size differs from the portrait's.
    """
    check_strength(strength)
    if tuple(frames.shape[-2:]) != framing.size:
        height, width = frames.shape[-2:]
        raise InputError(
            f"the clip is {width}x{height}, its portrait {framing.size[1]}x{framing.size[0]}: correct the colours "
            "before the clip is scaled or cropped."
        )
    if strength == 0:
        return frames
    target = to_oklab(((portrait + 1) / 2).clamp(0, 1).to(frames.device, torch.float32))
    target_mean, target_deviation = statistics(crop_to(target, framing))
    lab = torch.cat([to_oklab(frame.float()) for frame in frames.split(1)])  # frame by frame to keep temporaries small
    mean, deviation = (straight(values) for values in statistics(crop_to(lab, framing)))
    gain = (target_deviation / deviation.clamp(min=FLAT)).clamp(max=MAX_GAIN)
    shift = target_mean - mean * gain
    held = torch.empty_like(frames)
    for i, pixels in enumerate(lab):
        matched = pixels * gain[i, :, None, None] + shift[i, :, None, None]
        held[i] = from_oklab(torch.lerp(pixels, matched, strength)).clamp(0, 1)
    return held


def statistics(lab: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per frame and channel: ``n 3 h w -> n 3, n 3``"""
    deviation, mean = torch.std_mean(lab, dim=(-2, -1), correction=0)
    return mean, deviation


def straight(values: Tensor) -> Tensor:
    """Least-squares line through values over time: ``n c -> n c``"""
    time = torch.arange(len(values), device=values.device, dtype=values.dtype)[:, None]
    time = time - time.mean()
    # the sum is 0.5 for two frames, 0 for one, which has no slope
    slope = (time * values).sum(0) / time.square().sum().clamp(min=0.5)
    return values.mean(0) + slope * time


def to_oklab(rgb: Tensor) -> Tensor:
    """sRGB in 0..1 to Oklab: ``... 3 h w -> ... 3 h w``"""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    lms = _mix(linear, _matrix(RGB_TO_LMS))
    return _mix(lms.clamp(min=0) ** (1 / 3), _matrix(LMS_TO_LAB))


def from_oklab(lab: Tensor) -> Tensor:
    """Oklab to sRGB, ``... 3 h w -> ... 3 h w``; colours outside the sRGB gamut are outside 0..1."""
    lms = _mix(lab, torch.linalg.inv(_matrix(LMS_TO_LAB))) ** 3
    linear = _mix(lms, torch.linalg.inv(_matrix(RGB_TO_LMS)))
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def _matrix(rows: tuple[tuple[float, ...], ...]) -> Tensor:
    """``3 3``, float64, so that its inverse is exact to float32."""
    return torch.tensor(rows, dtype=torch.float64)


def _mix(channels: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("ij,...jhw->...ihw", matrix.to(channels), channels)
