"""Finds the face of a person of the drawn world in pictures, from their pixels alone.

It matches pictures with a template that the world itself draws: the mean of several people, in three maps (skin; red or
dark; white or cool) that do not depend on a person's own colours.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .drawing import draw_frames
from .people import draw_person
from .scenes import draw_scene

HEIGHT = 96  # pixels: pictures are measured at this height
COARSE = 2  # pixels per search cell
SCALES = (0.92, 1.0, 1.08, 1.16)  # sizes of a person to search for
MODELS = range(5_000_000, 5_000_024)  # seeds of the people whose mean is the template
PATCH = (-0.26, 0.25, 0.21)  # top, bottom and half width of the template, from the face's middle, in frame heights


class FaceTrack(NamedTuple):
    """Where the face is: tracks ``f``, in heights of the frame from its middle; size as of `Person`."""

    x: Tensor
    y: Tensor
    size: Tensor
    score: Tensor


def prepare(frames: np.ndarray | Tensor) -> Tensor:
    """Frames ``f 3 h w`` in 0..1, `HEIGHT` pixels high."""
    pictures = torch.as_tensor(frames).cpu()
    pictures = pictures[None] if pictures.ndim == 3 else pictures
    if pictures.ndim != 4 or pictures.shape[-1] != 3:
        raise ValueError(f"expected frames f h w 3 or a picture h w 3, got {list(pictures.shape)}")
    pictures = pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures.float()
    pictures = pictures.permute(0, 3, 1, 2).clamp(0, 1)
    height, width = pictures.shape[-2:]
    if height != HEIGHT:
        size = (HEIGHT, round(width * HEIGHT / height))
        pictures = F.interpolate(pictures, size, mode="bilinear", antialias=True, align_corners=False)
    return pictures


def _maps(pictures: Tensor) -> Tensor:
    """Pictures ``f 3 h w`` to the three maps ``f 3 h w`` in 0..1: skin; red or dark; white or cool."""
    red, green, blue = pictures.unbind(1)
    value = pictures.amax(1).clamp(min=1e-3)
    warmth, paleness = (red - green) / value, blue / value  # skin: 0.08..0.4 and 0.4..0.82
    orange = 0.62 * (red - blue) - (green - blue)  # positive for skin; blond hair is yellower
    skin = _between(warmth, 0.07, 0.48) * _between(paleness, 0.36, 0.84) * _above(value, 0.33)
    skin = skin * _above(green - blue, 0) * _above(orange, 0)
    lips = _above(warmth, 0.5) * _above(red, 0.3)
    dark = _above(-value, -0.30)
    cool = _above(blue - red, -0.06)
    return torch.stack([skin, torch.maximum(lips, dark), cool * (1 - dark)], 1)


def _above(values: Tensor, limit: float) -> Tensor:
    """A soft threshold: 0 to 1 over a narrow range around the limit."""
    return ((values - limit) / 0.06 + 0.5).clamp(0, 1)


def _between(values: Tensor, low: float, high: float) -> Tensor:
    return _above(values, low) * _above(-values, -high)


class Template(NamedTuple):
    """The mean of several people's maps, and the weight of each position: ``3 h w``, a head of size 1."""

    maps: Tensor
    weights: Tensor


@lru_cache(maxsize=1)
def _template() -> Template:
    top, bottom, half = PATCH
    rows = slice(round((0.5 + top) * HEIGHT), round((0.5 + bottom) * HEIGHT))
    columns = slice(round((0.75 - half) * HEIGHT), round((0.75 + half) * HEIGHT))
    total = torch.zeros(3, HEIGHT, HEIGHT * 3 // 2)
    mouth = np.array([[0.0, 0.5], [0.4, 0.5], [0.9, 0.5]], np.float32)
    rest = np.zeros((3, 5), np.float32)
    for seed in MODELS:
        person, scene = replace(draw_person(seed), x=0.0, y=0.0, size=1.0), draw_scene(seed, moving=False)
        frames = draw_frames(person, scene, mouth, rest, rest[:, 0], (HEIGHT, HEIGHT * 3 // 2))
        total += _maps(torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)).mean(0)
    maps = total[:, rows, columns] / len(MODELS)
    height, width = maps.shape[-2:]
    v = torch.linspace(top, bottom, height)[:, None] + 0.01
    u = torch.linspace(-half, half, width)[None]
    inside = _above(1 - torch.sqrt((u / 0.165) ** 2 + (v / 0.225) ** 2), 0.0)
    # Around the face only skin counts, and less: hair and scenes can be dark, red or cool.
    return Template(maps, torch.stack([0.7 + 0.3 * inside, 0.1 + 0.9 * inside, 0.1 + 0.9 * inside]))


def find_face(pictures: Tensor) -> FaceTrack:
    """Finds the best match in each picture ``f 3 96 w``: template correlation over positions and sizes."""
    maps = F.avg_pool2d(_maps(pictures), COARSE)
    best = None
    for scale in SCALES:
        scores = _match(maps, Template(*(_scaled(part, scale / COARSE) for part in _template())))
        found = _peak(scores, scale, pictures.shape[-2:])
        if best is None:
            best = found
        else:
            better = found.score > best.score
            best = FaceTrack(*(torch.where(better, new, old) for new, old in zip(found, best, strict=True)))
    return best


def _scaled(template: Tensor, factor: float) -> Tensor:
    """Resizes a template; its sides stay even, so that its centre stays between two cells."""
    height, width = (2 * round(side * factor / 2) for side in template.shape[-2:])
    return F.interpolate(template[None], (height, width), mode="bilinear", antialias=True, align_corners=False)[0]


def _match(maps: Tensor, template: Template) -> Tensor:
    """Weighted correlation of the template at every position of the maps: ``f h w`` (cells)."""
    weights = template.weights / template.weights.sum((1, 2), keepdim=True)
    centred = template.maps - (weights * template.maps).sum((1, 2), keepdim=True)
    strength = (weights * centred**2).sum().sqrt()
    height, width = centred.shape[-2:]
    padded = F.pad(maps, (width // 2,) * 2 + (height // 2,) * 2, mode="replicate")
    across = F.conv2d(padded, (weights * centred)[None])[:, 0]
    means = F.conv2d(padded, weights[:, None], groups=3)
    variance = (F.conv2d(padded**2, weights[:, None], groups=3) - means**2).clamp(min=0).sum(1)
    return across / (variance.sqrt() * strength + 1e-3)


def _peak(scores: Tensor, scale: float, size) -> FaceTrack:
    """The best position in each picture, with subcell precision: a parabola through the peak and its neighbours."""
    frames, rows, columns = scores.shape
    best = scores.flatten(1).argmax(1)
    row, column, each = best // columns, best % columns, torch.arange(frames)
    inner_row, inner_column = row.clamp(1, rows - 2), column.clamp(1, columns - 2)
    down = _vertex(*(scores[each, inner_row + step, column] for step in (-1, 0, 1)))
    along = _vertex(*(scores[each, row, inner_column + step] for step in (-1, 0, 1)))
    top, bottom, _ = PATCH
    y = (inner_row + down) * COARSE / HEIGHT - 0.5 - scale * (top + bottom) / 2
    x = ((inner_column + along) * COARSE - size[1] / 2) / HEIGHT
    return FaceTrack(x, y, torch.full((frames,), scale), scores[each, row, column])


def _vertex(before: Tensor, at: Tensor, after: Tensor) -> Tensor:
    """Position in -1..1 of the maximum of the parabola through three values."""
    curve = 2 * at - before - after
    return torch.where(curve > 1e-9, (after - before) / (2 * curve.clamp(min=1e-9)), 0.0).clamp(-1, 1)


def coordinates(pictures: Tensor, place: FaceTrack) -> tuple[Tensor, Tensor]:
    """Each pixel's u and v, from the face's middle in lengths of size 1: two of ``f h w``."""
    height, width = pictures.shape[-2:]
    x = (torch.arange(width) + 0.5 - width / 2) / height
    y = (torch.arange(height) + 0.5) / height - 0.5
    across = (x[None, None] - place.x[:, None, None]) / place.size[:, None, None]
    down = (y[None, :, None] - place.y[:, None, None]) / place.size[:, None, None]
    return across.expand(-1, height, -1), down.expand(-1, -1, width)
