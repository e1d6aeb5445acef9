"""The validation loss: held-out clips at fixed timesteps, with the weights that would be written."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..model.hallo3 import Hallo3
from ..model.trunk import LayoutOf
from ..sampling.schedule import TRAINING_STEPS
from ..vae.autoencoder import VideoVae
from .draw import draw
from .draws import Keyed
from .preview import NO_DROPS
from .report import DECILES, Losses
from .samples import Samples
from .step import step


@dataclass(frozen=True)
class Validation:
    """loss: the mean over the clips; by_decile: of those in each tenth of the timesteps; null_loss: of the same clips
    without their sound, None if the networks read none."""

    loss: float
    by_decile: list[float | None]
    null_loss: float | None = None

    @property
    def sound_gain(self) -> float | None:
        """What sound is worth: the share by which it lowers the loss."""
        return None if self.null_loss is None else 1 - self.loss / self.null_loss

    def values(self) -> dict[str, object]:
        """For the log."""
        found = {"validation_loss": self.loss, "validation_loss_by_decile": self.by_decile}
        gain = self.sound_gain
        return found if gain is None else found | {"validation_sound_gain": round(gain, 6)}


@torch.no_grad()
def validate(
    networks: Hallo3,
    vae: VideoVae,
    samples: Samples,
    seed: int,
    *,
    generator: torch.Generator,
    dtype: torch.dtype,
    layout: LayoutOf,
) -> Validation:
    """Every clip, one at a time, so that nothing depends on the batch: in the middle of one tenth of the timesteps if
    there are ten clips or more, else of every tenth. Noise depends on the clip alone; nothing is dropped or weighted.
    """
    heard, null = Losses(generator.device), Losses(generator.device)
    for clip in range(samples.count):
        for tenth in range(DECILES) if samples.count < DECILES else (clip % DECILES,):
            draws = Keyed(seed, clip, 1, generator=generator)
            inputs = draw(samples.batch(torch.tensor([clip], device=generator.device), draws), vae, draws, NO_DROPS)
            middle = (2 * tenth + 1) * TRAINING_STEPS // (2 * DECILES)
            inputs = inputs._replace(weight=None, timesteps=torch.full_like(inputs.timesteps, middle))
            heard.add(step(networks, inputs, dtype, layout).loss, inputs.timesteps)
            if networks.audio_projector is not None:
                without = inputs._replace(audio=torch.zeros_like(inputs.audio))
                null.add(step(networks, without, dtype, layout).loss, inputs.timesteps)
    found, missed = (losses.take(lambda sums: sums) for losses in (heard, null))
    return Validation(found["loss"], found["loss_by_decile"], missed["loss"])
