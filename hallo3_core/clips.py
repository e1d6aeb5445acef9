"""Clip arithmetic: how a film's frames are cut into clips. The one home of these numbers.

Source: the released sampler works at 25 frames a second on clips of 49 frames, of which the first 2 repeat the clip
before; the VAE makes 13 latent frames of 49 (1 + 48 / 4). Of the frames that a clip repeats there may be others than 2:
a network is trained with its own number of motion frames.
"""

from __future__ import annotations

FPS = 25
FRAMES_PER_CLIP = 49
MOTION_FRAMES = 2
NEW_FRAMES_PER_CLIP = FRAMES_PER_CLIP - MOTION_FRAMES  # of the released model
LATENT_FRAMES = 13


def film_frames(samples: int, rate: int) -> int:
    """Frames of a film with `samples` samples of sound at `rate` per second: ceil(25 x seconds), exactly."""
    if samples < 1 or rate < 1:
        raise ValueError(f"a film needs sound: got {samples} samples at {rate} Hz")
    return -(-samples * FPS // rate)


def new_frames_per_clip(motion_frames: int = MOTION_FRAMES) -> int:
    """Frames that a clip adds to a film: 47 of its 49, since 2 repeat the clip before."""
    return FRAMES_PER_CLIP - motion_frames


def latent_frames(frames: int) -> int:
    """Latent frames that the VAE makes of so many frames in one call: 49 become 13; portrait and 2 motion frames, 1.

    It halves them twice; of an odd number the first stays alone.
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
