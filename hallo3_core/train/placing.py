"""How a film's frames become the networks' frames, and what of a portrait the reference network sees."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InputError
from . import geometry
from .film import FilmError, Pictures, TrainingFilm
from .geometry import Fit, Size

OUTSIDE = 2  # pixels by which a box may reach beyond the picture: detectors round


@dataclass(frozen=True)
class Placing:
    """fit: of films of our own list; None for those of the original's, which are stretched or squared."""

    size: Size
    fit: Fit | None
    film: TrainingFilm = field(repr=False)

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]

    def frames(self, frames: Tensor) -> Tensor:
        """uint8 ``n 3 h w`` -> ``n 3 H W``"""
        if self.fit is not None:
            return self.fit.frames(frames)
        return (geometry.squared if self.film.mask is not None else geometry.resized)(frames, self.size)

    def masked(self, frame: Tensor, number: int) -> Tensor:
        """The frame with this number, black where the reference network sees nothing: ``3 h w`` -> ``3 H W``, float32
        in 0..255."""
        if self.film.mask is not None:
            return geometry.masked(frame, self.film.mask, self.size)
        if self.film.boxes is not None:
            return geometry.boxed(frame, self.film.boxes[number], self.size).float()
        height, width = self.size
        box = self.box(self.film.box) / torch.tensor([width, height, width, height])
        return geometry.boxed(self.frames(frame[None])[0], box, self.size).float()

    def box(self, box: tuple[float, ...]) -> Tensor:
        """A box in the pixels of a film of our own list -> in the networks' pixels, float64."""
        return self.fit.box(torch.tensor(box, dtype=torch.float64))


def placing(film: TrainingFilm, look: Pictures, size: Size) -> Placing:
    """Plans where a film's frames go.

    Raises:
        FilmError: its boxes or mask do not belong to its pictures, or the crop cannot hold the face.
    """
    height, width = look.height, look.width
    if film.mask is not None and tuple(film.mask.shape) != (height, width):
        raise FilmError(f"{film.name}: a mask of {list(film.mask.shape)} for frames of {[height, width]}.")
    if film.boxes is not None and len(film.boxes) < look.count:
        raise FilmError(f"{film.name}: boxes for {len(film.boxes)} of {look.count} frames.")
    if film.boxes is not None or film.mask is not None:
        return Placing(size, None, film)
    for key, box in (("face_box", film.box), ("mouth_box", film.mouth)):
        if box is not None:
            _check_box(film.name, key, box, height, width)
    try:
        fit = geometry.fitted((height, width), size, None if film.box is None else torch.tensor(film.box))
    except InputError as error:
        command = _padding(film.name, height, width, size)
        raise FilmError(
            f"{film.name}: {width}x{height} cannot be cropped to {size[1]}:{size[0]}: {error}. Pad it: {command}."
        ) from error
    return Placing(size, fit, film)


def _check_box(name: str, key: str, box: tuple[float, ...], height: int, width: int) -> None:
    found = [round(side, 3) if max(box) <= 1.5 else round(side) for side in box]
    if max(box) <= 1.5:
        raise FilmError(f"{name}: {key} is {found}, in shares of the picture. Give it in pixels of {width}x{height}.")
    left, top, right, bottom = box
    if left < -OUTSIDE or top < -OUTSIDE or right > width + OUTSIDE or bottom > height + OUTSIDE:
        raise FilmError(
            f"{name}: {key} {found} reaches outside the picture, which is {width}x{height} as players show it. Give "
            "left, top, right, bottom in its pixels."
        )


def _padding(name: str, height: int, width: int, size: Size) -> str:
    wide = 2 * round(max(width, height * size[1] / size[0]) / 2)
    high = 2 * round(max(height, width * size[0] / size[1]) / 2)
    return f'ffmpeg -i "{name}" -vf pad={wide}:{high}:-1:-1 padded.mp4, and give face_box in its pixels'
