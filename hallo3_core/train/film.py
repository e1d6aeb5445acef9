"""A training film: its pictures, sound and face, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..film.fingerprint import digest
from ..inputs.recording import Recording

Box = tuple[float, float, float, float]  # left, top, right, bottom


class FilmError(InputError):
    """This film cannot be trained on; others can."""


class Pictures(Protocol):
    """A film's pictures, 25 per second. `inputs.footage.Footage` reads them from a file."""

    count: int
    height: int
    width: int

    def pictures(self, wanted: Iterable[int] | None = None) -> Iterator[Tensor]:
        """uint8 ``3 h w``, in order: all, or those with the `wanted` numbers (ascending)."""


@dataclass(frozen=True)
class PicturesInMemory:
    """`frames` ``n 3 h w``, uint8."""

    frames: Tensor

    @property
    def count(self) -> int:
        return len(self.frames)

    @property
    def height(self) -> int:
        return self.frames.shape[2]

    @property
    def width(self) -> int:
        return self.frames.shape[3]

    def pictures(self, wanted: Iterable[int] | None = None) -> Iterator[Tensor]:
        return iter(self.frames) if wanted is None else (self.frames[number] for number in wanted)


@dataclass(frozen=True, eq=False)
class TrainingFilm:
    """One film. Expensive inputs are functions, read when called.

    look: its pictures; sound: as long as the film, None if training does not use it; box: one box of the face's oval in
    all pictures, in their pixels; or boxes ``n 4``, one per picture in 0..1; or mask ``h w``, uint8; face: ArcFace
    embedding ``512``; audio: precomputed features ``n l d``. What is None is computed. mouth: one box around the mouth
    in all pictures, pixels, only needed if its part of the loss counts more (`data.mouth_weight`).
    look_identity, sound_identity: equal for equal content; recording: what it was cut from, equal for films that were
    cut from one; consent: who was asked for permission.
    """

    name: str
    look: Callable[[], Pictures]
    caption: str
    look_identity: str
    sound: Callable[[], Recording] | None = None
    sound_identity: str = ""
    box: Box | None = None
    boxes: Tensor | None = field(default=None, repr=False)
    mask: Tensor | None = field(default=None, repr=False)
    face: Tensor | None = field(default=None, repr=False)
    audio: Tensor | None = field(default=None, repr=False)
    mouth: Box | None = None
    recording: str = ""
    consent: str = "unknown"

    def face_box(self, number: int, look: Pictures) -> Box:
        """The face's box in a picture, in its pixels; the whole picture if it is not known."""
        if self.box is not None:
            return self.box
        whole = (look.width, look.height, look.width, look.height)
        shares = (0, 0, 1, 1) if self.boxes is None else self.boxes[number].tolist()
        return tuple(share * side for share, side in zip(shares, whole, strict=True))

    @property
    def region(self) -> str:
        """Identifies where the face is."""
        return digest(self.box, self.boxes, self.mask)

    @property
    def identity(self) -> str:
        """Equal for films that teach the same."""
        return digest(
            self.look_identity, self.sound_identity, self.caption, self.region, self.mouth, self.face, self.audio
        )


def film_of_arrays(
    name: str,
    frames: np.ndarray | Tensor,
    caption: str,
    box: Sequence[float],
    samples: np.ndarray | Tensor | None = None,
    rate: int = 16_000,
    face: Tensor | None = None,
    mouth: Sequence[float] | None = None,
    consent: str = "own",
) -> TrainingFilm:
    """Makes a film from arrays: frames ``n h w 3``, uint8; samples ``k`` in -1..1; boxes of face and mouth, pixels."""
    pictures = torch.as_tensor(frames).permute(0, 3, 1, 2)
    sound, waveform = None, None
    if samples is not None:
        waveform = torch.as_tensor(samples, dtype=torch.float32)[None]
        sound = partial(Recording, waveform, rate, name)
    return TrainingFilm(
        name,
        partial(PicturesInMemory, pictures),
        caption,
        digest(pictures),
        sound,
        digest(waveform, rate),
        box=tuple(map(float, box)),
        face=face,
        mouth=mouth and tuple(map(float, mouth)),
        consent=consent,
    )
