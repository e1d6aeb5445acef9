"""What a user chooses: how a clip is sampled, and everything else that a film depends on beside its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..errors import InputError
from ..film.color import check_strength
from ..film.fingerprint import SAME_FILM
from ..sampling.guidance import Branch, Guidance
from ..sampling.noise import check_seed
from ..sampling.sampler import SAMPLERS, SDE_DPMPP_2M
from ..sampling.schedule import check_steps
from .choices import FP8, FP8_PRODUCTS, FP8_WEIGHTS


@dataclass(frozen=True)
class Settings:
    """What a user chooses for a run.

    Raises:
        InputError: a setting that cannot be.
    """

    steps: int = 50
    guidance: Guidance = field(default_factory=Guidance)
    sampler: str = SDE_DPMPP_2M
    # The model calls of a step together, or one after another in half the memory.
    batched: bool = field(default=True, metadata=SAME_FILM)
    cache: float = 0.0  # how far x0 may have moved before it is computed again (`step_cache.py`); 0: always

    def __post_init__(self):
        check_steps(self.steps)
        if self.sampler not in SAMPLERS:
            raise InputError(f"sampler is {self.sampler!r}: choose one of {', '.join(SAMPLERS)}")
        if not 0 <= self.cache < 1:  # NaN fails too
            raise InputError(f"the step cache's threshold is {self.cache:g}: choose 0 (off) to below 1, such as 0.05")
        self.branches()  # a list of scales has one for each step

    def branches(self) -> set[Branch]:
        """All model calls that some step of the run needs."""
        return self.guidance.branches(self.steps)


@dataclass(frozen=True)
class Options:
    """Everything a film depends on beside its portrait, recording, prompt and networks. What depends on the machine is
    checked by `networks.check_machine`.

    Raises:
        InputError: an option that cannot be.
    """

    settings: Settings = field(default_factory=Settings)
    seed: int = 0
    size: tuple[int, int] | None = None  # height, width; None: what the model was trained on
    framing: str = "auto"  # or "crop", "pad", "native"
    # Of several sound tracks, from 1; None: the default one. The sound itself is compared, not its number.
    audio_track: int | None = field(default=None, metadata=SAME_FILM)
    vocals: bool = False  # the model hears the voice without music, as in the original
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
    fp8: str | None = None  # the denoiser's matrices: "weights" kept in fp8, "products" multiplied so too
    stream: bool = field(default=False, metadata=SAME_FILM)  # blocks stay in host memory

    def __post_init__(self):
        check_seed(self.seed)
        check_strength(self.color_hold)
        if self.fp8 not in (None, *FP8):
            raise InputError(f"fp8 is {self.fp8!r}: choose one of {', '.join(FP8)}")
        if self.fp8 == FP8_PRODUCTS and self.dtype != torch.bfloat16:
            raise InputError(f"fp8 {FP8_PRODUCTS} have results in bf16: choose --dtype bf16, or --fp8 {FP8_WEIGHTS}")
