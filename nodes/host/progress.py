"""Progress on the canvas: the bar, latent previews, a status line with the time left, and Cancel."""

from __future__ import annotations

import time
from collections.abc import Callable

import comfy.model_management as management
import comfy.utils
from torch import Tensor

from .messages import show_text
from .preview import previewer
from .sampling import ClipSampler

DECODE_STEPS = 3  # decoding a clip counts as this many steps on the bar, and in the time left until one is timed


class StepBar:
    """One bar over all clips: their steps and, if the node decodes them, their decoding. Each step previews the latent
    according to the user's setting, and Cancel takes effect between steps."""

    UNIT = "clip"

    def __init__(self, sampler: ClipSampler, clips: int = 1, node_id: str | None = None, *, decodes: bool = False):
        """clips: number of clips, each with the sampler's steps."""
        self._steps, self._clips, self._node_id = sampler.settings.steps, clips, node_id
        self._decode = DECODE_STEPS if decodes else 0
        self._total = (self._steps + self._decode) * clips
        self._bar = comfy.utils.ProgressBar(self._total)
        self._previewer = previewer(sampler.patcher.load_device, sampler.vae, sampler.portrait.pixels)
        self._done = self._decoded = 0  # steps and decodings
        self._sampling, self._decoding = _Watch(), _Watch()
        self._sampling.start()

    def step(self, clean: Tensor) -> None:
        """Reports a finished step; `clean` is its x0, ``b 16 t h w``, scaled.

        Raises:
            the host's exception for Cancel.
        """
        management.throw_exception_if_processing_interrupted()
        self._done += 1
        self._sampling.lap()
        preview = None
        if self._previewer is not None:
            preview = self._previewer.decode_latent_to_preview_image("JPEG", clean)
        clip, step = divmod(self._done - 1, self._steps)
        self._say(clip, f"step {step + 1} of {self._steps}")
        self._update(preview)

    def decoding(self) -> None:
        """Reports that decoding of the next clip has started."""
        self._decoding.start()
        self._say(self._decoded, "decoding")

    def decoded(self) -> None:
        """Reports that the clip is decoded."""
        self._decoded += 1
        self._decoding.lap()
        self._sampling.start()
        self._update()

    def kept(self, clip: int) -> None:
        """Reports a clip that an earlier run has finished."""
        self._done += self._steps
        self._decoded += 1
        show_text(f"{self.UNIT} {clip + 1} of {self._clips} is there from an earlier run", self._node_id)
        self._update()

    def again(self, reason: str) -> None:
        """Reports that the steps of this clip start over, and why."""
        self._done -= self._done % self._steps
        show_text(reason, self._node_id)

    def callback(self) -> Callable[[int, Tensor, Tensor, int], None]:
        """Returns `step` with the signature of a host sampler's callback."""
        return lambda step, clean, x, steps: self.step(clean)

    def _update(self, preview=None) -> None:
        done = self._done + self._decode * self._decoded
        self._bar.update_absolute(min(done, self._total), self._total, preview)

    def _say(self, clip: int, phase: str) -> None:
        where = f"{self.UNIT} {clip + 1} of {self._clips}, " if self._clips > 1 else ""
        show_text(f"{where}{phase}, {span(self._left())} left", self._node_id)

    def _left(self) -> float:
        """Estimated seconds left."""
        left = self._sampling.mean * (self._steps * self._clips - self._done)
        if self._decode:
            guess = self._decode * self._sampling.mean
            left += (self._decoding.mean if self._decoding.laps else guess) * (self._clips - self._decoded)
        return left


class _Watch:
    """Measures mean durations."""

    def __init__(self):
        self.seconds, self.laps, self._start = 0.0, 0, time.monotonic()

    def start(self) -> None:
        self._start = time.monotonic()

    def lap(self) -> None:
        now = time.monotonic()
        self.seconds, self.laps, self._start = self.seconds + now - self._start, self.laps + 1, now

    @property
    def mean(self) -> float:
        return self.seconds / self.laps if self.laps else 0.0


def span(seconds: float) -> str:
    """Formats a duration in minutes and seconds, with hours if needed: 0:07, 12:30, 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
