"""Converts ComfyUI's IMAGE and MASK to the core's tensors and back, and rejects wrong inputs with a clear error."""

from __future__ import annotations

import torch
from torch import Tensor

from ..hallo3_core.errors import InputError
from ..hallo3_core.inputs.face_mask import box_mask, reference_mask
from ..hallo3_core.inputs.image import MAX_PIXELS, check_size

GREEN = (0.2, 0.9, 0.4)
# colour corrections overshoot 1 slightly and are clamped; larger values mean another scale, such as 0..255
BRIGHTEST = 2.0


def check_image(image: Tensor, what: str) -> None:
    """Raises InputError unless a tensor has the form of an IMAGE. `what` names the input."""
    if image.ndim != 4 or image.shape[-1] not in (3, 4) or not image.numel():
        raise InputError(f"{what}: shape {list(image.shape)}, expected [frames, height, width, 3]. Connect an IMAGE.")
    if not image.is_floating_point():
        raise InputError(f"{what}: values are {image.dtype}, expected floats of 0 to 1. Connect an IMAGE.")


def check_mask(mask: Tensor, what: str) -> None:
    """Raises InputError unless a tensor has the form of a MASK. `what` names the input."""
    if mask.ndim not in (2, 3) or not mask.numel():
        raise InputError(f"{what}: shape {list(mask.shape)}, expected [1, height, width]. Connect a MASK.")
    if not mask.is_floating_point():
        raise InputError(f"{what}: values are {mask.dtype}, expected floats of 0 to 1. Connect a MASK.")


def pixels_of(image: Tensor, what: str) -> Tensor:
    """IMAGE ``n h w 3`` (or 4: composited over black) -> ``n 3 h w``, float32 in 0..1, on the same device.

    `what` names the input in errors.

    Raises:
        InputError: wrong shape, empty, NaN or infinite values, or values not on a scale of 0..1.
    """
    check_image(image, what)
    low, high = (value.item() for value in image.aminmax())  # aminmax propagates NaN
    if not (low >= -1 and high <= BRIGHTEST):
        raise InputError(
            f"{what}: values from {low:g} to {high:g}, expected 0 to 1. Look for the node before it that went wrong; "
            "NaN comes from a VAE in fp16, 255 from a missing division."
        )
    pixels = image.float().clamp(0, 1).movedim(-1, 1)
    return pixels if pixels.shape[1] == 3 else pixels[:, :3] * pixels[:, 3:]


def portrait_of(image: Tensor) -> Tensor:
    """Returns the only picture of an IMAGE, ``1 3 h w`` in 0..1 on the CPU.

    Raises:
        InputError: a batch, a picture that is too small, too elongated or absurdly large, or not an IMAGE.
    """
    if image.ndim == 4 and image.shape[0] > 1:
        raise InputError(f"portrait: a batch of {image.shape[0]} pictures, expected 1. Pick one with ImageFromBatch.")
    if image.ndim == 4:
        height, width = image.shape[1:3]
        if height * width > MAX_PIXELS:
            raise InputError(f"portrait: absurdly large ({width}x{height}). Scale it to at most 80 megapixels.")
        check_size(height, width)
    return pixels_of(image, "portrait").cpu().contiguous()


def face_mask_of(mask: Tensor, height: int, width: int) -> Tensor:
    """MASK ``1 h w``, 1 on the face -> ``h w`` on the CPU.

    Raises:
        InputError: a batch, a size other than the portrait's, or all zeros, as LoadImage returns for opaque pictures.
    """
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or mask.shape[0] != 1:
        raise InputError(f"face mask: shape {list(mask.shape)}, expected [1, height, width]. Give one mask.")
    if not mask.any():
        raise InputError(
            f"face mask: {mask.shape[2]}x{mask.shape[1]} zeros, so no face is to be seen. LoadImage gives 64x64 zeros "
            "for a picture without transparency: connect the mask of Hallo3 Face Embed, or paint the face."
        )
    return reference_mask(height, width, mask=mask[0].cpu())


def image_of(pixels: Tensor) -> Tensor:
    """``n 3 h w`` in 0..1 -> IMAGE ``n h w 3``"""
    return pixels.movedim(1, -1).contiguous()


def marked(picture: Tensor, mask: Tensor, box: tuple[float, float, float, float]) -> Tensor:
    """Marks the face in ``1 3 h w``: draws the box in green and halves the brightness outside `mask` ``h w``."""
    height, width = mask.shape
    line = max(1, min(height, width) // 200)
    x0, y0, x1, y1 = (round(side) for side in box)
    outer = box_mask((x0, y0, x1, y1), height, width)
    inner = box_mask((x0 + line, y0 + line, x1 - line, y1 - line), height, width)
    return torch.where(outer > inner, torch.tensor(GREEN).view(1, 3, 1, 1), picture * (mask + 1) / 2)
