"""Samples one clip with many sets of scales for a contact sheet. Work independent of the scales is done once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ...hallo3_core.sampling.guidance import Branch, Guidance, Scales
from ..types import Motion
from .conditions import ClipInputs, HostClip
from .film import decode
from .guider import Guider
from .progress import StepBar
from .sampling import ClipSampler


class CellGuider(Guider):
    """The guider of one cell. The first cell prepares the conditions of all cells and stores them in `shared`."""

    def __init__(
        self,
        patcher: Any,
        inputs: ClipInputs,
        guidance: Guidance,
        all_branches: Collection[Branch],
        shared: list[HostClip],
    ):
        super().__init__(patcher, inputs, guidance)
        self.all_branches, self.shared = all_branches, shared

    def prepare(self, branches: Collection[Branch]) -> HostClip:
        if not self.shared:
            self.shared.append(super().prepare(self.all_branches))
        return self.shared[0]


@dataclass(frozen=True, eq=False)
class GridSampler(ClipSampler):
    """A film's sampler that keeps the inputs of one clip for all cells."""

    ready: ClipInputs
    all_branches: Collection[Branch]
    shared: list[HostClip]

    def guider(self, clip: int, motion: Motion | None) -> Guider:
        return CellGuider(self.patcher, self.ready, self.settings.guidance, self.all_branches, self.shared)


class CellBar(StepBar):
    """Progress over all cells: their steps, then their decoding."""

    UNIT = "cell"


def sample_cells(
    clips: ClipSampler,
    clip: int,
    motion: Motion | None,
    scales: Sequence[Scales],
    frames: Sequence[int],
    bar: CellBar,
) -> Iterator[Tensor]:
    """Yields, for each set of scales, the chosen frames of the clip side by side: ``3 H n*W`` in 0..1, on the CPU.

    Raises:
        InputError: no such clip, or motion frames of another film.
    """
    steps, own = clips.settings.steps, {field.name: getattr(clips, field.name) for field in fields(clips)}
    branches = set().union(*(Guidance(cell).branches(steps) for cell in scales))
    grid = GridSampler(**own, ready=clips.inputs(clip, motion), all_branches=branches, shared=[])
    settings = [replace(clips.settings, guidance=Guidance(cell)) for cell in scales]
    latents = [replace(grid, settings=cell).sample(clip, motion, bar.callback()) for cell in settings]
    grid.shared.clear()  # all decoding happens after all sampling, so the VAE replaces the denoiser once, not per cell
    for latent in latents:
        bar.decoding()
        decoded = decode(clips.vae.vae, latent)[list(frames)]
        bar.decoded()
        yield torch.cat(decoded.unbind(0), dim=-1)
