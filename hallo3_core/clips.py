"""Clip arithmetic: how a film's frames are divided into clips. These numbers are defined only here.

Source: the released sampler works at 25 frames per second on clips of 49 frames, of which the first 2 repeat the
previous clip. The VAE encodes 49 frames to 13 latent frames (1 + 48 / 4). Other networks may repeat a different number
of frames: each is trained with its own number of motion frames.
"""

from __future__ import annotations

FPS = 25
FRAMES_PER_CLIP = 49
MOTION_FRAMES = 2
NEW_FRAMES_PER_CLIP = FRAMES_PER_CLIP - MOTION_FRAMES  # of the released model
LATENT_FRAMES = 13


def film_frames(samples: int, rate: int) -> int:
    """Frames of a film with `samples` audio samples at `rate` per second: ceil(25 x seconds), exactly."""
    if samples < 1 or rate < 1:
        raise ValueError(f"a film needs sound: got {samples} samples at {rate} Hz")
    return -(-samples * FPS // rate)


def new_frames_per_clip(motion_frames: int = MOTION_FRAMES) -> int:
    """Frames that a clip adds to a film: 47 of its 49 with 2 motion frames, which repeat the previous clip."""
    return FRAMES_PER_CLIP - motion_frames


def latent_frames(frames: int) -> int:
    """Number of latent frames that the VAE makes from `frames` frames in one call: 13 from 49, 1 from portrait and 2
    motion frames.

    It halves the count twice. If the count is odd, the first frame is kept separate.
    """
    for _ in range(2):
        frames = (frames + 1) // 2
    return frames


def clip_count(frames: int, motion_frames: int = MOTION_FRAMES) -> int:
    """Clips needed for a film of `frames` frames."""
    if frames < 1:
        raise ValueError(f"a film needs at least 1 frame, got {frames}")
    return -(-frames // new_frames_per_clip(motion_frames))


def clip_span(clip: int, frames: int, motion_frames: int = MOTION_FRAMES) -> tuple[int, int]:
    """Film frames `start .. stop-1` that clip number `clip` adds to a film of `frames` frames.

    Raises:
        IndexError: the film has no such clip.
    """
    clips, new = clip_count(frames, motion_frames), new_frames_per_clip(motion_frames)
    if not 0 <= clip < clips:
        raise IndexError(f"clip {clip} does not exist: a film of {frames} frames has {clips} clips")
    return clip * new, min((clip + 1) * new, frames)
