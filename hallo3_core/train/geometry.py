"""Resizes frames to the networks' size as the original's data set does, and masks the portrait.

Frames are uint8 before and after the resize: rounded and clamped. A film with a face box per frame is stretched to the
size; one with a mask for all frames is resized to a square with black columns at its sides.
"""

from __future__ import annotations

from math import ceil, floor

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]  # height, width


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


def box_cells(box: Tensor, frame: Size, size: Size) -> Tensor:
    """1 for the latent cells of 8 x 8 pixels that a box touches, else 0: `box` ``[x0, y0, x1, y1]`` in pixels of a
    frame that is stretched to `size` -> ``H/8 W/8``, float32."""
    (height, width), (rows, columns) = frame, (side // 8 for side in size)
    x0, y0, x1, y1 = (box / torch.tensor([width, height, width, height]) * torch.tensor([columns, rows] * 2)).tolist()
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
