"""Sound and face to the tokens that the denoiser reads, before its steps begin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...hallo3_core.clips import MOTION_FRAMES, clip_count
from ...hallo3_core.errors import InputError
from ...hallo3_core.inputs.audio import AudioFeatures, check_width, clip_audio
from ...hallo3_core.inputs.face import Face
from ..types import Network
from .memory import on_device


@dataclass(frozen=True, eq=False)
class Projectors:
    """The two small networks that belong to a denoiser, None where it reads no sound or no face. They are loaded for a
    moment, and share no memory with it. `motion_frames` is how many frames its clips repeat."""

    audio: Network | None
    face: Network | None
    motion_frames: int = MOTION_FRAMES

    def clips(self, features: AudioFeatures) -> int:
        """Clips that the denoiser makes of the recording."""
        return clip_count(features.frames, self.motion_frames)

    def audio_tokens(self, features: AudioFeatures, clip: int) -> Tensor | None:
        """What the clip hears, ``1 t n c`` on the CPU.

        Raises:
            InputError: features of another wav2vec2, or no such clip.
        """
        self._check(features)
        if not 0 <= clip < (clips := self.clips(features)):
            raise InputError(
                f"clip {clip} does not exist: the recording has {clips} clips, counted from 0 to {clips - 1}"
            )
        return self._project_audio(clip_audio(features, clip, self.motion_frames))

    def null_audio_tokens(self, features: AudioFeatures) -> Tensor | None:
        """What the denoiser takes for no sound, ``1 t n c``: silence is not zero behind the projector."""
        self._check(features)
        return self._project_audio(torch.zeros_like(clip_audio(features, 0)))

    def face_tokens(self, face: Face) -> Tensor | None:
        """``1 n c`` on the CPU."""
        if self.face is None:
            return None
        with on_device(self.face) as projector:
            return projector(face.embedding[None].to(self.face.patcher.load_device, self.face.dtype)).float().cpu()

    def _project_audio(self, windows: Tensor) -> Tensor | None:
        if self.audio is None:
            return None
        with on_device(self.audio) as projector:
            return projector(windows[None].to(self.audio.patcher.load_device, self.audio.dtype)).float().cpu()

    def _check(self, features: AudioFeatures) -> None:
        if self.audio is not None:
            check_width(features, self.audio.module.proj1.in_features, f"{features.recording.name}: its wav2vec2")
