"""Clip arithmetic: how a film's frames are divided into clips. These numbers are defined only here.

Source: the released sampler works at 25 frames per second on clips of 49 frames, of which the first 2 repeat the
previous clip. The VAE encodes 49 frames to 13 latent frames (1 + 48 / 4). Other networks may repeat a different number
of frames: each is trained with its own number of motion frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

FPS = 25
FRAMES_PER_CLIP = 49
MOTION_FRAMES = 2
NEW_FRAMES_PER_CLIP = FRAMES_PER_CLIP - MOTION_FRAMES  # of the released model
LATENT_FRAMES = 13
Frames = TypeVar("Frames", bound=Sequence)  # such as a tensor, frames first


def film_frames(samples: int, rate: int) -> int:
    """Frames of a film with `samples` audio samples at `rate` per second: ceil(25 x seconds), exactly."""
    if samples < 1 or rate < 1:
        raise ValueError(f"a video needs sound: got {samples} samples at {rate} Hz")
    return -(-samples * FPS // rate)


def latent_frames(frames: int) -> int:
    """Number of latent frames that the VAE makes from `frames` frames in one call: 13 from 49, 1 from portrait and 2
    motion frames.

    It halves the count twice. If the count is odd, the first frame is kept separate.
    """
    for _ in range(2):
        frames = (frames + 1) // 2
    return frames


@dataclass(frozen=True)
class Timeline:
    """The frames of a film, divided into clips: all of it depends on the film's length and the number of motion frames
    that the network was trained with.

    Raises:
        ValueError: no frames.
    """

    frames: int
    motion_frames: int = MOTION_FRAMES

    def __post_init__(self):
        if self.frames < 1:
            raise ValueError(f"a video needs at least 1 frame, got {self.frames}")

    @property
    def new_per_clip(self) -> int:
        """Frames that a clip adds: 47 of its 49 with 2 motion frames, which repeat the previous clip."""
        return FRAMES_PER_CLIP - self.motion_frames

    @property
    def clips(self) -> int:
        """Number of clips."""
        return -(-self.frames // self.new_per_clip)

    def span(self, clip: int) -> tuple[int, int]:
        """Film frames `start .. stop-1` that clip number `clip` adds.

        Raises:
            IndexError: the film has no such clip.
        """
        if not 0 <= clip < self.clips:
            raise IndexError(f"clip {clip} does not exist: a video of {self.frames} frames has {self.clips} clips")
        return clip * self.new_per_clip, min((clip + 1) * self.new_per_clip, self.frames)

    def first_sampled(self, clip: int) -> int:
        """The film frame that a clip begins with, which is that of its first motion frame: negative in clip 0.

        Raises:
            IndexError: the film has no such clip.
        """
        return self.span(clip)[0] - self.motion_frames

    def new_frames(self, decoded: Frames, clip: int) -> Frames:
        """The frames that a clip adds: ``49 ... -> n ...``"""
        start, stop = self.span(clip)
        return decoded[self.motion_frames : self.motion_frames + stop - start]

    def last_frames(self, decoded: Frames) -> Frames:
        """The motion frames of the next clip: the last frames of this one."""
        return decoded[-self.motion_frames :]
