"""All networks together, for training. Nothing is cached between steps."""

from __future__ import annotations

from torch import Tensor, nn

from .config import Grid
from .denoiser import Conditions, Denoiser
from .projectors import AudioProjector, FaceProjector
from .reference_net import ReferenceNet
from .trunk import LayoutOf, Trunk


class Hallo3(nn.Module):
    """Denoiser, reference network and projectors; all except the denoiser are optional.

    They form one module so that FSDP can use it as its root: every weight, also that of a learned table, is read inside
    its methods. So `layout` is a function that gives a network's positions, not a layout that was made before.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        reference_net: ReferenceNet | None = None,
        face_projector: FaceProjector | None = None,
        audio_projector: AudioProjector | None = None,
    ):
        super().__init__()
        self.denoiser, self.reference_net = denoiser, reference_net
        self.face_projector, self.audio_projector = face_projector, audio_projector

    def forward(
        self,
        latent: Tensor,
        concat: Tensor,
        timesteps: Tensor,
        text: Tensor,
        portrait: Tensor | None = None,
        face: Tensor | None = None,
        audio: Tensor | None = None,
        layout: LayoutOf = Trunk.layout,
    ) -> Tensor:
        """A training step: `conditions`, then `velocity`, with gradients through all networks."""
        # of the class: FSDP gathers weights around this call, and around the instance's two methods, but not for both
        conditions = Hallo3.conditions(self, text, portrait, face, audio, layout)
        return Hallo3.velocity(self, latent, concat, timesteps, conditions, layout)

    def conditions(
        self,
        text: Tensor,
        portrait: Tensor | None = None,
        face: Tensor | None = None,
        audio: Tensor | None = None,
        layout: LayoutOf = Trunk.layout,
    ) -> Conditions:
        """What is constant over the calls of one clip.

        text: ``b m text_width``, read by denoiser and reference network.
        portrait: the latent ``b 16 h w`` of the masked portrait.
        face: embedding ``b d``. audio: windows ``b f w l d``.
        All have the weights' dtype, unless autocast is on.
        """
        return self.denoiser.live_conditions(
            text,
            bank=None if portrait is None else self.reference_net(portrait, text, layout=layout),
            face_tokens=None if face is None else self.face_projector(face),
            audio_tokens=None if audio is None else self.audio_projector(audio),
        )

    def velocity(
        self,
        latent: Tensor,
        concat: Tensor,
        timesteps: Tensor,
        conditions: Conditions,
        layout: LayoutOf = Trunk.layout,
    ) -> Tensor:
        """Noisy and concat latent ``b 16 t h w`` -> velocity ``b 16 t h w``.

        timesteps: ``b``, integers or float32, because a cast to half precision would round them.
        """
        dtype, patch, (frames, height, width) = latent.dtype, self.denoiser.config.patch, latent.shape[-3:]
        modulation = self.denoiser.modulate_steps(timesteps, dtype)
        grid = Grid(frames, height // patch, width // patch)
        return self.denoiser(latent, concat, conditions, modulation, layout(self.denoiser, grid, dtype, latent.device))
