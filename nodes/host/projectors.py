"""Projects audio and face to the tokens that the denoiser reads, before its steps begin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...hallo3_core.clips import MOTION_FRAMES, Timeline
from ...hallo3_core.errors import InputError
from ...hallo3_core.inputs.audio import AudioFeatures, check_width, clip_audio
from ...hallo3_core.inputs.face import Face
from ..types import Network
from .memory import on_device


@dataclass(frozen=True, eq=False)
class Projectors:
    """The two small networks that belong to a denoiser; None if it does not read audio or a face. They are loaded only
    while they run, separately from the denoiser. `motion_frames` is the number of frames that a clip repeats."""

    audio: Network | None
    face: Network | None
    motion_frames: int = MOTION_FRAMES

    def timeline(self, features: AudioFeatures) -> Timeline:
        """The clips that the denoiser makes for the recording."""
        return Timeline(features.frames, self.motion_frames)

    def audio_tokens(self, features: AudioFeatures, clip: int) -> Tensor | None:
        """Audio tokens of the clip, ``1 t n c`` on the CPU.

        Raises:
            InputError: features from the wrong wav2vec2, or no such clip.
        """
        self._check(features)
        timeline = self.timeline(features)
        if not 0 <= clip < timeline.clips:
            raise InputError(
                f"clip {clip} does not exist: the recording has {timeline.clips} clips, counted from 0 to "
                f"{timeline.clips - 1}"
            )
        return self._project_audio(clip_audio(features, clip, timeline))

    def null_audio_tokens(self, features: AudioFeatures) -> Tensor | None:
        """Audio tokens of the null, ``1 t n c``: the projection of zero features, which is not zero."""
        self._check(features)
        return self._project_audio(torch.zeros_like(clip_audio(features, 0)))

    def face_tokens(self, face: Face) -> Tensor | None:
        """Face tokens ``1 n c`` on the CPU, or None if the denoiser reads no face."""
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
