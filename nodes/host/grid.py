"""One clip with many sets of scales, for a contact sheet: what does not depend on the scales is prepared once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ...hallo3_core.guidance import Guidance, Scales
from ..types import Motion
from .conditions import ClipInputs
from .film import decode
from .progress import StepBar
from .sampling import ClipSampler, Report


@dataclass(frozen=True, eq=False)
class OneClip(ClipSampler):
    """The sampler of a film, with the inputs of one clip kept for all of its runs."""

    ready: ClipInputs

    def inputs(self, clip: int, motion: Motion | None) -> ClipInputs:
        return self.ready


class CellBar(StepBar):
    """A bar over the steps of all cells."""

    def _text(self) -> str:
        return super()._text().replace("clip", "cell", 1)


def sample_cells(
    clips: ClipSampler,
    clip: int,
    motion: Motion | None,
    scales: Sequence[Scales],
    frames: Sequence[int],
    report: Report | None = None,
) -> Iterator[Tensor]:
    """For each set of scales the chosen frames of the clip, side by side: ``3 H n*W`` in 0..1, on the CPU.

    Raises:
        InputError: no such clip, or motion frames of another film.
    """
    shared = {field.name: getattr(clips, field.name) for field in fields(clips)}
    one = OneClip(**shared, ready=clips.inputs(clip, motion))
    for cell in scales:
        settings = replace(clips.settings, guidance=Guidance(cell))
        decoded = decode(clips.vae.vae, replace(one, settings=settings).sample(clip, motion, report))
        yield torch.cat(decoded[list(frames)].unbind(0), dim=-1)
