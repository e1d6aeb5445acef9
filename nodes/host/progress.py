"""Progress on the canvas: the bar, the preview of the latent, a line of text with the time left, and Cancel."""

from __future__ import annotations

import time
from collections.abc import Callable

import comfy.model_management as management
import comfy.utils
import latent_preview
from torch import Tensor

from .preview import PortraitColours
from .sampling import ClipSampler


class StepBar:
    """One bar over the steps of all clips. Each step shows the latent as the user's preview setting has it, says how
    long it will take, and is a moment at which Cancel takes effect."""

    def __init__(self, sampler: ClipSampler, clips: int = 1, node_id: str | None = None):
        """Over so many clips of the sampler's steps."""
        steps = sampler.settings.steps
        self._bar = comfy.utils.ProgressBar(steps * clips)
        colours = PortraitColours(sampler.vae, sampler.portrait.pixels)
        self._previewer = latent_preview.get_previewer(sampler.patcher.load_device, colours)
        self._steps, self._clips, self._node_id = steps, clips, node_id
        self._done, self._kept, self._start = 0, 0, time.monotonic()

    def step(self, clean: Tensor) -> None:
        """One step more is done; `clean` is its x0, ``b 16 t h w``, scaled.

        Raises:
            the host's exception for Cancel.
        """
        management.throw_exception_if_processing_interrupted()
        self._done += 1
        preview = None
        if self._previewer is not None:
            preview = self._previewer.decode_latent_to_preview_image("JPEG", clean)
        show_text(self._text(), self._node_id)
        self._bar.update_absolute(self._done, self._steps * self._clips, preview)

    def kept(self, clip: int) -> None:
        """A clip is there from an earlier run."""
        self._done += self._steps
        self._kept += self._steps
        show_text(f"clip {clip + 1} of {self._clips} is there from an earlier run", self._node_id)
        self._bar.update_absolute(self._done, self._steps * self._clips)

    def again(self, reason: str) -> None:
        """The steps of this clip are done once more."""
        self._done -= self._done % self._steps
        show_text(reason, self._node_id)

    def callback(self) -> Callable[[int, Tensor, Tensor, int], None]:
        """The form in which the host's samplers report."""
        return lambda step, clean, x, steps: self.step(clean)

    def _text(self) -> str:
        clip, step = divmod(self._done - 1, self._steps)
        each = (time.monotonic() - self._start) / (self._done - self._kept)
        left = span(each * (self._steps * self._clips - self._done))
        where = f"clip {clip + 1} of {self._clips}, " if self._clips > 1 else ""
        return f"{where}step {step + 1} of {self._steps}, {left} left"


def span(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any: 0:07, 12:30, 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def show_text(text: str, node_id: str | None) -> None:
    """A line of text on the node while it runs; where there is no server, nothing."""
    try:
        from server import PromptServer
    except ImportError:
        return
    send = getattr(getattr(PromptServer, "instance", None), "send_progress_text", None)
    if send is not None and node_id is not None:
        send(text, node_id)
