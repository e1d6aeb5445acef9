"""Measures the ground truth from pixels alone: the mouth, the colours, and motion.

The mouth is measured as the sum of darkness down its middle, which blur hardly changes, and converted to the drawn
track's units by a linear fit on drawn films.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import InputError
from .colours import Palette
from .drawing import DARK, MOUTH_BELOW
from .finding import HEIGHT, FaceTrack, coordinates, find_face, prepare

A_FACE = 0.55  # minimum correlation of a face with the template; drawn faces have 0.66 or more, blurred 0.57
STEP = 4  # frames over which motion is measured: motion adds up, noise does not
UNEVEN = 0.06  # largest mean deviation of a drawn cheek from its colour: drawn ones have at most 0.04
# Slope and offset from heights of the frame to the drawn track's units, for the mouth's height and width: least squares
# on 12 drawn films.
LINES = ((11.5, 0.023), (13.0, -1.145))


@dataclass(frozen=True)
class Reading:
    """Measurements of a film."""

    mouth: np.ndarray  # ``f 2``: height and width, in the units of the drawn track (0..1)
    head: np.ndarray  # ``f 3``: x and y of the face's middle in heights of the frame, and its size
    skin: np.ndarray  # ``3``, 0..1, mean over the film; also for hair and clothes
    hair: np.ndarray
    clothes: np.ndarray
    background_motion: float  # mean change of a channel within `STEP` frames, away from the person, 0..1
    head_motion: float  # mean displacement of the face's middle within `STEP` frames, heights of the frame
    score: float  # lowest template correlation of any frame, -1..1


def measure(frames: np.ndarray | Tensor, name: str = "film") -> Reading:
    """Measures a film ``f h w 3``, or a picture ``h w 3``; uint8, or float in 0..1.

    Raises:
        InputError: a frame has no face of the drawn world.
    """
    pictures = prepare(frames)
    place = find_face(pictures)
    skin = _skin(pictures, place)
    _check(pictures, place, skin, name)
    mouth = _mouth(pictures, place, skin)
    middle = torch.stack([place.x, place.y], 1)
    way = (middle[STEP:] - middle[:-STEP]).norm(dim=1)
    return Reading(
        mouth=mouth.numpy(),
        head=torch.stack([place.x, place.y, place.size], 1).numpy(),
        skin=skin.mean(0).numpy(),
        hair=_patch_colour(pictures, place, (-0.05, -0.24, 0.05, -0.185)).numpy(),
        clothes=_clothes(pictures, place).numpy(),
        background_motion=_background_motion(pictures, place),
        head_motion=float(way.mean()) if len(way) else 0.0,
        score=float(place.score.min()),
    )


def _check(pictures: Tensor, place: FaceTrack, skin: Tensor, name: str) -> None:
    worst = int(place.score.argmin())
    u, v = coordinates(pictures, place)
    cheeks = _cheeks(u, v)
    deviation = (pictures - skin[:, :, None, None]).abs().mean(1)
    unevenness = (deviation * cheeks).sum((1, 2)) / cheeks.sum((1, 2)).clamp(min=1)
    if not place.score[worst] >= A_FACE:
        found = f"frame {worst} is like one by {place.score[worst]:.2f}, expected {A_FACE} or more"
    elif not unevenness.max() <= UNEVEN:
        worst = int(unevenness.argmax())
        found = f"the skin in frame {worst} varies by {unevenness[worst]:.2f}, expected {UNEVEN} or less"
    else:
        return
    raise InputError(
        f"{name}: no face of the drawn world ({found}). Measure drawn videos and what the toy release made."
    )


def _cheeks(u: Tensor, v: Tensor) -> Tensor:
    """Mask of the area between eyes and mouth."""
    return (u.abs() < 0.09) & (v > 0.01) & (v < 0.075)


def sync(measured: np.ndarray, true: np.ndarray, reach: int = 5) -> tuple[float, int]:
    """Correlation of two tracks ``f``, and the lag with the highest correlation.

    A lag of 2 means that `measured` is 2 frames late. The correlation returned is that at lag 0; it is 0 if a track is
    constant.
    """
    if measured.shape != true.shape or measured.ndim != 1 or len(true) < 2 * reach + 3:
        raise ValueError(f"two tracks of one length, {2 * reach + 3} or more, expected: {measured.shape}, {true.shape}")
    inner, scores = len(true) - 2 * reach, {}
    for lag in range(-reach, reach + 1):
        scores[lag] = _correlation(measured[reach + lag : reach + lag + inner], true[reach : reach + inner])
    return _correlation(measured, true), max(scores, key=lambda lag: (scores[lag], -abs(lag)))


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = np.sqrt((one**2).sum() * (other**2).sum())
    return float((one * other).sum() / scale) if scale > 1e-9 else 0.0


def nearest_name(rgb: np.ndarray, palette: Palette) -> str:
    """The palette's colour name with the nearest range."""
    centres = {}
    for name, (hue, saturation, value) in palette.items():
        centres[name] = colorsys.hsv_to_rgb(sum(hue) / 2 % 1, sum(saturation) / 2, sum(value) / 2)
    return min(centres, key=lambda name: float(np.sum(np.subtract(centres[name], rgb) ** 2)))


def _median_colour(pictures: Tensor, inside: Tensor) -> Tensor:
    """Median colour of the pixels inside, frame by frame: ``f 3``; of the whole frame if there are none."""
    colours = []
    for picture, mask in zip(pictures, inside, strict=True):
        pixels = picture[:, mask] if mask.any() else picture.flatten(1)
        colours.append(pixels.median(1).values)
    return torch.stack(colours)


def _skin(pictures: Tensor, place: FaceTrack) -> Tensor:
    """Skin colour between eyes and mouth, ``f 3``."""
    u, v = coordinates(pictures, place)
    return _median_colour(pictures, _cheeks(u, v))


def _patch_colour(pictures: Tensor, place: FaceTrack, box: tuple[float, float, float, float]) -> Tensor:
    """Median colour of a box on the face over all frames, ``3``."""
    u, v = coordinates(pictures, place)
    x0, y0, x1, y1 = box
    return _median_colour(pictures, (u > x0) & (u < x1) & (v > y0) & (v < y1)).mean(0)


def _clothes(pictures: Tensor, place: FaceTrack) -> Tensor:
    """Median colour beside the neckline, to the picture's lower edge."""
    u, v = coordinates(pictures, place)
    return _median_colour(pictures, (u.abs() > 0.12) & (u.abs() < 0.22) & (v > 0.385)).mean(0)


def _background_motion(pictures: Tensor, place: FaceTrack) -> float:
    if len(pictures) <= STEP:
        return 0.0
    u, v = coordinates(pictures, place)
    away = F.avg_pool2d((((u.abs() > 0.34) | (v < -0.42)) & (v < 0.24)).float(), 4) == 1
    both = away[STEP:] & away[:-STEP]
    blocks = F.avg_pool2d(pictures, 4)  # averages out pixel noise, which is not motion
    change = (blocks[STEP:] - blocks[:-STEP]).abs().mean(1)
    return float((change * both).sum() / both.sum().clamp(min=1))


def _mouth(pictures: Tensor, place: FaceTrack, skin: Tensor) -> Tensor:
    """Height and width of the mouth, ``f 2``, in the units of the drawn track."""
    u, v = coordinates(pictures, place)
    red, green = pictures[:, 0], pictures[:, 1]
    skin_red, skin_green = skin[:, 0, None, None], skin[:, 1, None, None]
    # Green relative to red, which shading does not change: lips and the open mouth have less of it than skin.
    ratio, skin_ratio = (green + 0.02) / (red + 0.02), (skin_green + 0.02) / (skin_red + 0.02)
    lips = (1 - ratio / skin_ratio).clamp(0, 1)
    at_u, at_v = torch.zeros(len(u), 1, 1), torch.full((len(u), 1, 1), MOUTH_BELOW)
    for _ in range(4):  # the mouth moves with the turned head
        weights = lips * torch.exp(-(((u - at_u) / 0.06) ** 2) - ((v - at_v) / 0.05) ** 2)
        total = weights.sum((1, 2), keepdim=True) + 1e-3
        at_u = (weights * u).sum((1, 2), keepdim=True) / total
        at_v = (weights * v).sum((1, 2), keepdim=True) / total
    u, v = u - at_u, v - at_v
    brightest = 0.85 * torch.minimum(0.35 * skin_red + 0.44, skin_red)  # lips and skin at most: not dark
    dark = ((brightest - red) / (brightest - DARK[0])).clamp(0, 1)
    middle = torch.exp(-((u / 0.02) ** 2))
    down = (dark * middle * (v.abs() < 0.068)).sum((1, 2)) / middle[:, :1].sum((1, 2))
    columns = (lips * torch.exp(-((v / 0.02) ** 2) - (u / 0.085) ** 4)).sum(1)
    across = (columns / 0.5).clamp(max=1).sum(1)
    pixels = torch.stack([down, across], 1)
    slope, offset = torch.tensor(LINES).T
    return slope * pixels / (place.size.mean() * HEIGHT) + offset
