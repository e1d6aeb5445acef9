"""What a user chooses: how a clip is sampled, and everything else that a film depends on beside its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..film.fingerprint import SAME_FILM
from ..sampling.guidance import Branch, Guidance
from ..sampling.sampler import SDE_DPMPP_2M, check_sampler
from ..sampling.schedule import make_schedule
from ..sampling.step_cache import check_threshold


@dataclass(frozen=True)
class Settings:
    """What a user chooses for a run."""

    steps: int = 50
    guidance: Guidance = field(default_factory=Guidance)
    sampler: str = SDE_DPMPP_2M
    # The evaluations of a step together, or one after another in half the memory.
    batched: bool = field(default=True, metadata=SAME_FILM)
    cache: float = 0.0  # how far x0 may have moved before it is computed again (`step_cache.py`); 0: always

    def branches(self) -> set[Branch]:
        """All evaluations that the run needs; the place to ask first, since it checks every setting.

        Raises:
            InputError: a setting that cannot be.
        """
        check_sampler(self.sampler)
        check_threshold(self.cache)
        return self.guidance.branches(len(make_schedule(self.steps)))


@dataclass(frozen=True)
class Options:
    """Everything a film depends on beside its portrait, recording, sentence and networks."""

    settings: Settings = field(default_factory=Settings)
    seed: int = 0
    size: tuple[int, int] | None = None  # height, width; None: what the model was trained on
    framing: str = "auto"  # or "crop", "pad", "native"
    face: str = "largest"  # or "whole": the whole picture serves where no face is found
    face_provider: str = "CPU"
    loras: tuple[tuple[Path, float], ...] = ()  # files and strengths
    color_hold: float = 0.0  # strength of `hold_colour`
    metadata: Mapping[str, str] = field(default_factory=dict, metadata=SAME_FILM)  # kept in the film's file
    ai_notice: bool = field(default=True, metadata=SAME_FILM)  # the film says that it is AI-generated
    device: str = field(default="cpu", metadata=SAME_FILM)  # its kind counts, not its number
    dtype: torch.dtype = torch.float32
    compile: bool = field(default=False, metadata=SAME_FILM)  # the denoiser's block, by torch.compile
    attention: str = "auto"  # of the denoiser; see `attention_backends.py`
    fp8: str | None = None  # the denoiser's matrices: "weights" kept in eight bits, "products" multiplied so too
    stream: bool = field(default=False, metadata=SAME_FILM)  # blocks stay in host memory
