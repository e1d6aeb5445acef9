"""Fits frames to the networks' size, and masks the portrait.

Frames are uint8 before and after: rounded and clamped. Films of our own list are cropped or padded as portraits are for
sampling. The original's data set stretches a film with a face box per frame to the size, and resizes one with a mask
for all frames to a square with black columns at its sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..inputs.image import plan_framing

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Fit:
    """How frames of `frame` become frames of `size`: scaled to `scaled`, then cropped or padded so that the point
    `corner` (top, left) of the scaled frame is the new one's corner. All (height, width)."""

    frame: Size
    size: Size
    scaled: Size
    corner: tuple[int, int]

    def frames(self, frames: Tensor) -> Tensor:
        """uint8 ``n 3 h w`` -> ``n 3 H W``; black where the frame does not reach."""
        (top, left), (height, width) = self.corner, self.size
        rows, columns = self.scaled
        scaled = resized(frames, self.scaled)
        return F.pad(scaled, (-left, width - columns + left, -top, height - rows + top))

    def box(self, box: Tensor) -> Tensor:
        """``[x0, y0, x1, y1]`` in the frame's pixels -> in the new frame's, cut at its sides."""
        scale = torch.tensor([self.scaled[1] / self.frame[1], self.scaled[0] / self.frame[0]] * 2, dtype=torch.float64)
        moved = box.double() * scale - torch.tensor([*self.corner[::-1]] * 2, dtype=torch.float64)
        limits = torch.tensor([self.size[1], self.size[0]] * 2, dtype=torch.float64)
        return torch.minimum(moved.clamp(min=0), limits)


def fitted(frame: Size, size: Size, box: Tensor | None = None) -> Fit:
    """Fits as sampling fits a portrait: square frames are padded, all others cropped. A crop is moved off the centre
    as far as it must to hold the face's `box` in the frame's pixels.

    Raises:
        InputError: the frame is too long or small, or the crop cannot hold the face.
    """
    plan = plan_framing(*frame, *size)
    if plan.mode == "pad":
        return Fit(frame, size, plan.scaled, (-plan.keep[0], -plan.keep[1]))
    corner = [(scaled - side) // 2 for scaled, side in zip(plan.scaled, size, strict=True)]
    if box is not None:
        ends = box.double().view(2, 2).T.flip(0) * (torch.tensor(plan.scaled) / torch.tensor(frame))[:, None]
        corner = list(map(_holding, corner, size, plan.scaled, *ends.T.tolist()))
    return Fit(frame, size, plan.scaled, tuple(corner))


def _holding(start: int, length: int, limit: int, first: float, last: float) -> int:
    """Moves the stretch `start .. start + length` of `0 .. limit` as little as it takes to hold `first .. last`.

    Raises:
        InputError: it is too short for that.
    """
    first, last = max(0, floor(first)), min(limit, ceil(last))
    if last - first > length:
        raise InputError(f"the face takes {(last - first) / limit:.0%} of a side, the crop {length / limit:.0%}")
    return min(max(start, last - length), first)


def resized(frames: Tensor, size: Size) -> Tensor:
    """uint8 ``n 3 h w`` -> ``n 3 H W``, bicubic with antialiasing; frames of the right size are returned unchanged."""
    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    return _interpolated(frames.float(), size).round().clamp(0, 255).to(torch.uint8)


def squared(frames: Tensor, size: Size) -> Tensor:
    """``n 3 h w`` -> ``n 3 H W``: stretched to a square of the full height, with black columns on both sides."""
    return _padded(resized(frames, (size[0], size[0])), size[1])


def box_mask(box: Tensor, size: Size) -> Tensor:
    """``[x0, y0, x1, y1]`` in 0..1 -> mask ``h w`` of 0 and 1, float32; corners are truncated to whole pixels."""
    h, w = size
    x0, y0, x1, y1 = (int(value) for value in box * torch.tensor([w, h, w, h], dtype=box.dtype))
    mask = torch.zeros(h, w)
    mask[y0:y1, x0:x1] = 1
    return mask


def box_cells(box: Tensor, size: Size) -> Tensor:
    """1 for the latent cells of 8 x 8 pixels that a box touches, else 0: `box` ``[x0, y0, x1, y1]`` in pixels of a
    frame of this size -> ``H/8 W/8``, float32."""
    rows, columns = (side // 8 for side in size)
    x0, y0, x1, y1 = (box / 8).tolist()
    cells = torch.zeros(rows, columns)
    cells[max(0, floor(y0)) : ceil(y1), max(0, floor(x0)) : ceil(x1)] = 1
    return cells


def boxed(frame: Tensor, box: Tensor, size: Size) -> Tensor:
    """The portrait inside its face box: uint8 ``3 h w`` -> ``3 H W``, black outside."""
    frame = resized(frame[None], size)[0]
    return (frame * box_mask(box, size)).to(frame.dtype)


def masked(frame: Tensor, mask: Tensor, size: Size) -> Tensor:
    """The portrait times a mask ``h w``, uint8: ``3 h w`` -> ``3 H W``, float32 in 0..255. The mask is applied at the
    original size, and the resize's overshoot is not clamped."""
    product = frame.float() * (mask.float() / 255)
    side = (size[0], size[0])
    if tuple(frame.shape[-2:]) != side:
        product = _interpolated(product[None], side)[0]
    return _padded(product, size[1])


def to_pixels(values: Tensor) -> Tensor:
    """Maps 0..255 to -1..1, float32."""
    return (values.float() - 127.5) / 127.5


def _padded(frames: Tensor, width: int) -> Tensor:
    left = (width - frames.shape[-1]) // 2
    return F.pad(frames, (left, width - frames.shape[-1] - left))


def _interpolated(frames: Tensor, size: Size) -> Tensor:
    return F.interpolate(frames, size=tuple(size), mode="bicubic", antialias=True, align_corners=False)
