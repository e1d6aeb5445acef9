"""Clip arithmetic: how a film's frames are cut into clips. The one home of these numbers.

Source: the released sampler works at 25 frames a second on clips of 49 frames, of which the first 2 repeat the clip
before; the VAE makes 13 latent frames of 49 (1 + 48 / 4).
"""

from __future__ import annotations

FPS = 25
FRAMES_PER_CLIP = 49
MOTION_FRAMES = 2
NEW_FRAMES_PER_CLIP = FRAMES_PER_CLIP - MOTION_FRAMES
LATENT_FRAMES = 13


def film_frames(samples: int, rate: int) -> int:
    """Frames of a film with `samples` samples of sound at `rate` per second: ceil(25 x seconds), exactly."""
    if samples < 1 or rate < 1:
        raise ValueError(f"a film needs sound: got {samples} samples at {rate} Hz")
    return -(-samples * FPS // rate)


def clip_count(frames: int) -> int:
    """Clips needed for a film of `frames` frames: each adds 47, since 2 of its 49 repeat the clip before."""
    if frames < 1:
        raise ValueError(f"a film needs at least 1 frame, got {frames}")
    return -(-frames // NEW_FRAMES_PER_CLIP)


def clip_span(clip: int, frames: int) -> tuple[int, int]:
    """Film frames `start .. stop-1` that clip number `clip` adds to a film of `frames` frames.

    Raises:
        IndexError: the film has no such clip.
    """
    if not 0 <= clip < clip_count(frames):
        raise IndexError(f"clip {clip} does not exist: a film of {frames} frames has {clip_count(frames)} clips")
    start = clip * NEW_FRAMES_PER_CLIP
    return start, min(start + NEW_FRAMES_PER_CLIP, frames)
