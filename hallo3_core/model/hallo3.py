"""All networks in one forward pass, for training. Nothing is cached between steps."""

from __future__ import annotations

from torch import Tensor, nn

from .config import Grid
from .denoiser import Denoiser
from .projectors import AudioProjector, FaceProjector
from .reference_net import ReferenceNet


class Hallo3(nn.Module):
    """Denoiser, reference network and projectors; all except the denoiser are optional.

    They form one module so that FSDP can use it as its root: every weight is read inside its forward.
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
    ) -> Tensor:
        """Noisy and concat latent ``b 16 t h w`` -> velocity ``b 16 t h w``, with gradients through all networks.

        timesteps: ``b``, integers or float32, because a cast to half precision would round them.
        text: ``b m text_width``, read by denoiser and reference network.
        portrait: the latent ``b 16 h w`` of the masked portrait.
        face: embedding ``b d``. audio: windows ``b f w l d``.
        All except the timesteps have the weights' dtype, unless autocast is on.
        """
        dtype, patch, (frames, height, width) = latent.dtype, self.denoiser.config.patch, latent.shape[-3:]
        conditions = self.denoiser.live_conditions(
            text,
            bank=None if portrait is None else self.reference_net(portrait, text),
            face_tokens=None if face is None else self.face_projector(face),
            audio_tokens=None if audio is None else self.audio_projector(audio),
        )
        modulation = self.denoiser.modulate_steps(timesteps, dtype)
        layout = self.denoiser.layout(Grid(frames, height // patch, width // patch), dtype, latent.device)
        return self.denoiser(latent, concat, conditions, modulation, layout)
