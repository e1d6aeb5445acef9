"""Pictures: reads a portrait, frames it as a film frame, drops random pixels, and converts frames to bytes.

Source: section 2 of the released sampler, for the geometry. Portraits that are not square are scaled to cover the frame
and cropped. Square ones are scaled to its height and padded with black, and the film is cropped back to the square.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, require
from . import mending

GRID = 16  # pixels per token side: the VAE's factor 8 times the transformer's patch size 2
MIN_SIDE = 16
MAX_PIXELS = 80_000_000  # below Pillow's own limit; a larger picture is a mistake or a decompression bomb
MAX_ASPECT = 8
ORIENTATION = 0x0112  # EXIF's tag
LARGEST_SIDE = 2048  # of a film frame: a square one has twenty times the area of the training frames
MODES = ("auto", "crop", "pad")
# Formats that Pillow decodes itself, without those that start other programs (EPS: Ghostscript).
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF", "HEIF")

log = logging.getLogger(__name__)


def read_image(path: str | Path) -> Tensor:
    """Reads a picture file as ``3 h w``, float32, 0..1, RGB, rotated by its EXIF orientation. Of an animation it takes
    the first frame, with a warning.

    Transparent pixels are blended with black, since a reference's padding and masked area are black too. 16-bit grey is
    scaled, not clipped. Colour profiles are ignored, as in the original.

    Raises:
        InputError: no such file, not a picture, damaged, too large, smaller than 16 x 16, too elongated, or with pixel
            values that have no defined white.
    """
    path = Path(path)
    if not os.path.isfile(path):  # also False for names that are invalid as paths
        raise InputError(f"{path}: no such picture file. Give the path of a PNG, JPEG or WebP picture.")
    images = require("PIL.Image", "pillow", "reading pictures")
    images.init()
    try:
        pixels = _mended_or(path, lambda source: _decoded(source, path))
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"{path}: may not be read ({error.strerror}). Change its permissions.") from error
    except images.DecompressionBombError as error:
        raise InputError(f"{path}: absurdly large ({error}). Scale it to at most 80 megapixels.") from error
    except images.UnidentifiedImageError as error:
        raise InputError(f"{path}: not a picture that can be read. Save it as PNG, JPEG or WebP.") from error
    except Exception as error:  # on a damaged file Pillow's decoders raise almost anything
        raise InputError(f"{path}: the picture is damaged or cut short ({error}). Save it again as PNG.") from error
    check_size(*pixels.shape[-2:], name=str(path))
    return pixels


def _mended_or(path: Path, decode: Callable[[Path | BinaryIO], Tensor]) -> Tensor:
    """Decodes a file; if that fails, without what may be damaged around the picture. Raises the first failure."""
    try:
        return decode(path)
    except (InputError, PermissionError):
        raise
    except Exception as first:
        try:
            content = path.read_bytes() if path.stat().st_size <= mending.LARGEST else b""
            pixels = mending.decoded(content, decode)
        except InputError:
            raise
        except Exception:  # a damaged picture
            pixels = None
        if pixels is None:
            raise first
        return pixels


def _decoded(source: Path | BinaryIO, path: Path) -> Tensor:
    """The first picture of a file that is upright, ``3 h w`` in 0..1. Raises almost anything if it is damaged."""
    images = require("PIL.Image", "pillow", "reading pictures")
    formats = [name for name in FORMATS if name in images.OPEN]
    with (
        warnings.catch_warnings(
            action="ignore"
        ),  # of large pictures, which are checked below, and of damaged EXIF data
        images.open(source, formats=formats) as picture,  # reads the header only
    ):
        if picture.width * picture.height > MAX_PIXELS:
            raise images.DecompressionBombError(f"{picture.width}x{picture.height}")
        picture.load()
        pixels = _rgb(_upright(picture), path)
        if _is_animated(picture):
            log.warning("%s: has several pictures or is animated: only the first picture is used", path)
        return pixels


def _upright(picture):
    """The picture, turned as its EXIF data says. Damaged EXIF data is ignored, as browsers do."""
    turns = require("PIL.Image", "pillow", "reading pictures").Transpose
    try:
        orientation = picture.getexif().get(ORIENTATION)
    except Exception:  # Pillow's reader of EXIF raises almost anything
        return picture
    steps = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
    if not isinstance(orientation, int) or not 2 <= orientation <= 8:
        return picture
    return picture.transpose(turns[steps[orientation - 2]])


def _is_animated(picture) -> bool:
    try:
        return getattr(picture, "is_animated", False)
    except Exception:  # a later picture is damaged
        return True


def _rgb(picture, path: Path) -> Tensor:
    """Converts any Pillow picture to ``3 h w`` in 0..1."""
    import numpy  # for Pillow's pixels

    if picture.mode == "F":
        raise InputError(f"{path}: floating point pixels have no agreed white. Save it with 8 or 16 bits per channel.")
    if picture.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        grey = torch.from_numpy(numpy.asarray(picture).astype("float32"))
        if grey.amin() < 0 or grey.amax() > 65535:
            raise InputError(f"{path}: 32-bit grey has no agreed white. Save it with 8 or 16 bits per channel.")
        if isinstance(clear := picture.info.get("transparency"), int):
            grey = grey * (grey != clear)
        return (grey / 65535).expand(3, -1, -1).clone()
    if picture.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in picture.info:
        rgba = torch.from_numpy(numpy.array(picture.convert("RGBA"))).permute(2, 0, 1).float() / 255
        return (rgba[:3] * rgba[3:]).contiguous()
    rgb = torch.from_numpy(numpy.array(picture.convert("RGB")))
    return (rgb.permute(2, 0, 1).float() / 255).contiguous()


def check_size(height: int, width: int, name: str = "portrait") -> None:
    """Checks the size of a portrait.

    Raises:
        InputError: a side is below 16 pixels, or the aspect ratio is above 8 to 1.
    """
    if min(height, width) < MIN_SIDE:
        raise InputError(f"{name}: {width}x{height} is too small. Use at least 16x16 pixels, better 512x512.")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise InputError(f"{name}: {width}x{height} is too long. Crop it to at most {MAX_ASPECT} to 1.")


@dataclass(frozen=True)
class Framing:
    """How a portrait is fitted to a film frame, and which part of the film shows it. All sizes are (height, width)."""

    image: tuple[int, int]
    size: tuple[int, int]
    scaled: tuple[int, int]
    mode: str  # "crop" or "pad"
    keep: tuple[int, int, int, int]  # top, left, height, width in the film frame


def plan_framing(image_height: int, image_width: int, height: int, width: int, mode: str = "auto") -> Framing:
    """Plans how to fit a portrait to a film frame of `height` x `width` pixels.

    "auto" pads square portraits and crops all others, like the original. "crop" scales to cover the frame and keeps the
    centre. "pad" scales to fit, centres on black and keeps the fitted part, whose sides are even so that its film can
    be 4:2:0.

    Raises:
        InputError: an unknown mode, a frame side that is not a multiple of 16 up to 2048, or a portrait of a bad size.
    """
    for label, value in (("height", height), ("width", width)):
        if value < GRID or value % GRID:
            nearest = max(GRID, (value + GRID // 2) // GRID * GRID)
            raise InputError(f"{label} {value}: video frames are multiples of {GRID} pixels. Nearest: {nearest}.")
        if value > LARGEST_SIDE:
            raise InputError(f"{label} {value}: video frames have at most {LARGEST_SIDE} pixels a side.")
    if mode not in MODES:
        raise InputError(f"framing {mode!r}: expected one of {', '.join(MODES)}.")
    check_size(image_height, image_width)
    if mode == "auto":
        mode = "pad" if image_height == image_width else "crop"
    is_wider = image_width * height > width * image_height  # than the frame, compared without rounding
    if mode == "crop":
        across, down = image_width * height // image_height, image_height * width // image_width
        scaled = (height, across) if is_wider else (down, width)
        keep = (0, 0, height, width)
    else:
        across = _nearest_even(image_width * height, image_height)
        down = _nearest_even(image_height * width, image_width)
        scaled = (down, width) if is_wider else (height, across)
        keep = ((height - scaled[0]) // 2, (width - scaled[1]) // 2, *scaled)
    return Framing((image_height, image_width), (height, width), scaled, mode, keep)


def _nearest_even(numerator: int, denominator: int) -> int:
    """The nearest even number to a quotient, at least 2."""
    return max(2, 2 * ((numerator + denominator) // (2 * denominator)))


def frame_pixels(image: Tensor, plan: Framing) -> Tensor:
    """Fits portraits to film frames: ``b c h w -> b c H W``, values in 0..1.

    "crop" resamples bicubically and keeps overshoot beyond 0..1; "pad" resamples bilinearly, pads with black and
    clamps. A portrait that already has the scaled size is not resampled. Resampling runs on the CPU in float32, so that
    every device gets the same pixels. The result has the image's device and dtype.
    """
    if tuple(image.shape[-2:]) != plan.image or image.ndim != 4 or not image.is_floating_point():
        raise ValueError(f"expected a float image b c {plan.image}, got {image.dtype} {list(image.shape)}")
    pixels = image.detach().to("cpu", torch.float32)
    if plan.scaled != plan.image:
        kernel = "bicubic" if plan.mode == "crop" else "bilinear"
        pixels = F.interpolate(pixels, size=plan.scaled, mode=kernel, align_corners=False, antialias=True)
    (height, width), (rows, columns) = plan.size, plan.scaled
    if plan.mode == "crop":
        top, left = (rows - height) // 2, (columns - width) // 2
        pixels = pixels[..., top : top + height, left : left + width]
    else:
        top, left, *_ = plan.keep
        pixels = F.pad(pixels, (left, width - columns - left, top, height - rows - top)).clamp(0, 1)
    return pixels.contiguous().to(image)


def crop_to(frames: Tensor, plan: Framing) -> Tensor:
    """The part of film frames that shows the portrait: ``... H W -> ... h w`` with h, w of `plan.keep`."""
    if tuple(frames.shape[-2:]) != plan.size:
        raise ValueError(f"expected frames of {plan.size}, got {list(frames.shape)}")
    top, left, height, width = plan.keep
    return frames[..., top : top + height, left : left + width]


def pixel_dropout(frames: Tensor, uniform: Tensor, rate: float = 0.1) -> Tensor:
    """Sets a fraction `rate` of the motion frames' pixels to 0, the same pixels in all frames and channels.

    ``... h w, h w -> ... h w``. `uniform` is drawn from 0..1; pixels where it is above `rate` stay. Frames are in
    -1..1, so a dropped pixel is grey.
    """
    if frames.shape[-2:] != uniform.shape:
        raise ValueError(f"expected a draw of {list(frames.shape[-2:])}, got {list(uniform.shape)}")
    return frames * (uniform > rate).to(frames)


def to_uint8(frames: Tensor) -> Tensor:
    """Converts frames in 0..1 to bytes: ``t c h w -> t h w c``, 255 times the value, truncated.

    Raises:
        InputError: NaN or infinite values, which bytes would hide.
    """
    if not torch.isfinite(frames).all():
        raise InputError("the decoded frames hold NaN or infinity. Run the VAE and the model in bfloat16 or float32.")
    return (255 * frames.float().clamp(0, 1)).to(torch.uint8).movedim(-3, -1).contiguous()
