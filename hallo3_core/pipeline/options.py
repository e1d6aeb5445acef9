"""The user's options: how clips are sampled, and everything else besides the inputs that a film depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..errors import InputError
from ..film.color import check_strength
from ..film.fingerprint import SAME_FILM
from ..film.seam import check_fade
from ..sampling.guidance import Branch, Guidance
from ..sampling.noise import check_seed
from ..sampling.sampler import SAMPLERS, SDE_DPMPP_2M
from ..sampling.schedule import check_steps
from .choices import FP8, FP8_PRODUCTS, FP8_WEIGHTS


@dataclass(frozen=True)
class Settings:
    """The user's sampling settings.

    Raises:
        InputError: an invalid setting.
    """

    steps: int = 50
    guidance: Guidance = field(default_factory=Guidance)
    sampler: str = SDE_DPMPP_2M
    # Whether the model calls of a step run as one batch, or one after another in half the memory.
    batched: bool = field(default=True, metadata=SAME_FILM)
    cache: float = 0.0  # how far x0 may move before it is recomputed (`step_cache.py`); 0: every step

    def __post_init__(self):
        check_steps(self.steps)
        if self.sampler not in SAMPLERS:
            raise InputError(f"sampler is {self.sampler!r}: choose one of {', '.join(SAMPLERS)}")
        if not 0 <= self.cache < 1:  # NaN fails too
            raise InputError(f"the step cache's threshold is {self.cache:g}: choose 0 (off) to below 1, such as 0.05")
        self.branches()  # checks that a list of scales has one per step

    def branches(self) -> set[Branch]:
        """All model calls that some step of the run needs."""
        return self.guidance.branches(self.steps)

    def weights(self, step: int) -> dict[Branch, float]:
        """The model calls of one step and their weights."""
        return self.guidance.weights(step, self.steps)


@dataclass(frozen=True)
class Options:
    """Everything a film depends on besides its portrait, recording, prompt and networks. `networks.check_machine`
    checks the options that depend on the machine.

    Raises:
        InputError: an invalid option.
    """

    settings: Settings = field(default_factory=Settings)
    seed: int = 0
    size: tuple[int, int] | None = None  # height, width; None: the trained size
    framing: str = "auto"  # or "crop", "pad", "native"
    # Number of the audio track, from 1; None: the default track. Runs are compared by the audio, not by this number.
    audio_track: int | None = field(default=None, metadata=SAME_FILM)
    vocals: bool = False  # remove music before audio encoding, as the original does
    face: str = "largest"  # or "whole": use the whole picture if no face is found
    face_mask: str = "detector"  # or "mediapipe": where the face's oval comes from, which the reference network sees
    face_provider: str = "CPU"
    loras: tuple[tuple[Path, float], ...] = ()  # files and strengths
    color_hold: float = 0.0  # strength of `hold_colour`
    seam_fade: int = 0  # frames; see `fade_seam`
    metadata: Mapping[str, str] = field(default_factory=dict, metadata=SAME_FILM)  # tags written to the video file
    ai_notice: bool = field(default=True, metadata=SAME_FILM)  # mark the film as AI-generated
    device: str = field(default="cpu", metadata=SAME_FILM)  # only the device type matters, not its index
    dtype: torch.dtype = torch.float32
    compile: bool = field(default=False, metadata=SAME_FILM)  # torch.compile the denoiser's blocks
    attention: str = "auto"  # "auto": torch's choice; "sage": lossy; see `attention_backends.py`
    fp8: str | None = None  # the denoiser's matrices: "weights" stores them in fp8, "products" also multiplies in fp8
    stream: bool = field(default=False, metadata=SAME_FILM)  # keep blocks in host memory

    def __post_init__(self):
        check_seed(self.seed)
        check_strength(self.color_hold)
        check_fade(self.seam_fade)
        if self.fp8 not in (None, *FP8):
            raise InputError(f"fp8 is {self.fp8!r}: choose one of {', '.join(FP8)}")
        if self.fp8 == FP8_PRODUCTS and self.dtype != torch.bfloat16:
            raise InputError(f"fp8 {FP8_PRODUCTS} needs bf16: choose --dtype bf16, or --fp8 {FP8_WEIGHTS}")
