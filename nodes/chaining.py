"""Nodes for chaining clips by hand: motion frames, colour matching, and appending to the film."""

from __future__ import annotations

import torch
from torch import Tensor

from ..hallo3_core.clips import FRAMES_PER_CLIP, MOTION_FRAMES, Timeline
from ..hallo3_core.errors import InputError
from ..hallo3_core.film.color import hold_colour
from ..hallo3_core.film.seam import fade_seam
from ..hallo3_core.inputs.image import crop_to
from ..hallo3_core.inputs.portrait import Portrait
from . import inputs, types
from .audio import audio_of
from .images import image_of, pixels_of

CATEGORY = "Hallo3/chaining"
UNKNOWN, LAST_INDEX = -1, inputs.CLIP_INDEX[1]["max"]
COUNTS = (1, MOTION_FRAMES, 4)  # 4 is for models that were trained with it
CLIP = ("IMAGE", {"tooltip": "The decoded clip, all 49 frames of it."})


def motion_of(frames: Tensor, count: int, clip: int | None = None) -> types.Motion:
    """Returns the last `count` frames of an IMAGE, which is clip number `clip`, if that is known.

    Raises:
        InputError: too few frames, or a count that the model does not support.
    """
    if count not in COUNTS:
        raise InputError(f"count is {count}: the model takes 1 or {MOTION_FRAMES} motion frames.")
    if len(frames) < count:
        raise InputError(f"frames: only {len(frames)}, but count is {count}. Connect the whole decoded clip.")
    return types.Motion(pixels_of(frames[-count:], "frames").cpu(), clip)


def append_clip(
    film: Tensor | None,
    clip: Tensor,
    index: int,
    timeline: Timeline,
    portrait: Portrait | None,
    seam_fade: int = 0,
) -> Tensor:
    """Appends the new frames of clip number `index` to the film so far, an IMAGE. The last clip ends with the audio.

    With `portrait`, its padding bars are cropped off. The clip fades in from the film over `seam_fade` frames.

    Raises:
        InputError: no such clip, an incomplete clip, or a film whose length or size does not match the preceding clips.
    """
    if not 0 <= index < timeline.clips:
        raise InputError(f"clip {index} does not exist: the recording has {timeline.clips} clips, counted from 0.")
    if len(clip) != FRAMES_PER_CLIP:
        raise InputError(f"clip: {len(clip)} frames, expected {FRAMES_PER_CLIP}. Connect the whole decoded clip.")
    start, _ = timeline.span(index)
    found = 0 if film is None else len(film)
    if found != start:
        advice = "Leave film open for the first clip." if index == 0 else "Append the clips one by one, in order."
        raise InputError(f"film: {found} frames, but clip {index} begins at frame {start}. {advice}")
    pixels = pixels_of(clip, "clip")
    if portrait is not None:
        pixels = crop_to(checked_size(pixels, portrait), portrait.framing)
    frames = image_of(pixels)
    new = timeline.new_frames(frames, index)
    if film is None:
        return new
    if film.shape[1:] != new.shape[1:]:
        raise InputError(
            f"clip: {new.shape[2]}x{new.shape[1]}, but the video so far is {film.shape[2]}x{film.shape[1]}. Connect "
            "reference for all clips or for none, and scale the finished video instead of its clips."
        )
    new = fade_seam(new, film[-1], frames[timeline.motion_frames - 1], seam_fade)
    return torch.cat((film, new.to(film)))


def checked_size(pixels: Tensor, portrait: Portrait) -> Tensor:
    """Returns the frames ``n 3 H W`` if they have the portrait's size.

    Raises:
        InputError: they have another size.
    """
    if tuple(pixels.shape[-2:]) != portrait.framing.size:
        (height, width), (rows, columns) = pixels.shape[-2:], portrait.framing.size
        raise InputError(f"clip: {width}x{height}, but its reference is {columns}x{rows}. Connect the decoded clip.")
    return pixels


class Hallo3MotionFrames:
    """Last frames of a decoded clip, to start the next one from."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Takes the last frames of a clip so that the next clip continues the movement."
    RETURN_TYPES = (types.MOTION,)
    RETURN_NAMES = ("motion",)
    OUTPUT_TOOLTIPS = ("For the next Hallo3 Sample Clip, whose clip_index is one higher.",)
    FUNCTION = "execute"
    SEARCH_ALIASES = ["hallo", "continue", "last frames"]

    @classmethod
    def INPUT_TYPES(cls):
        frames = {"tooltip": "The decoded clip. Correct its colours first if you like, but keep its size."}
        count = {
            "default": MOTION_FRAMES,
            "min": 1,
            "max": max(COUNTS),
            "tooltip": "Frames handed on, 1, 2 or 4: the model was trained with 2; 1 stops the movement for a moment; "
            "4 is for a model of your own that was trained so.",
        }
        clip_index = {
            "default": UNKNOWN,
            "min": UNKNOWN,
            "max": LAST_INDEX,
            "tooltip": "The clip that these frames are of, as on its Hallo3 Sample Clip. Then a clip that is given the "
            "end of another than the one before is refused. -1: not checked.",
        }
        return {
            "required": {"frames": ("IMAGE", frames), "count": ("INT", count)},
            "optional": {"clip_index": ("INT", clip_index)},
        }

    def execute(self, frames, count, clip_index=UNKNOWN):
        return (motion_of(frames, count, None if clip_index == UNKNOWN else clip_index),)


class Hallo3ColorMatch:
    """Matches a clip's colours to the portrait's."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Holds a clip's colour and contrast to the portrait's, between VAEDecode and Hallo3 Motion Frames, so that a "
        "long video does not drift. Cheap beside sampling."
    )
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("frames",)
    OUTPUT_TOOLTIPS = ("The corrected clip: for Hallo3 Motion Frames and Hallo3 Append Clip both.",)
    FUNCTION = "execute"
    SEARCH_ALIASES = ["hallo", "colour", "color drift", "color transfer"]

    @classmethod
    def INPUT_TYPES(cls):
        strength = {
            "default": 1.0,
            "min": 0.0,
            "max": 1.0,
            "step": 0.05,
            "tooltip": "0 changes nothing, 1 holds each clip to the portrait; 0.5 is gentler and still keeps the video "
            "within about one clip's drift. Lower it where the clip shows much that the portrait does not. "
            "Cost: little beside sampling.",
        }
        return {
            "required": {"frames": CLIP, "reference": inputs.REFERENCE, "strength": ("FLOAT", strength)},
        }

    def execute(self, frames, reference, strength):
        pixels = pixels_of(frames, "frames")
        return (image_of(hold_colour(pixels, reference.pixels, reference.framing, strength)),)


class Hallo3AppendClip:
    """Appends a clip to the film."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Adds the new frames of a clip to the video so far: the first 2 repeat the clip before and are left out, and "
        "the last clip ends with the sound. The video stays in memory, 0.1 GB a second; Hallo3 Long Video does not."
    )
    RETURN_TYPES = ("IMAGE", "AUDIO")
    RETURN_NAMES = ("film", "sound")
    OUTPUT_TOOLTIPS = (
        "The video so far, 25 frames a second: for CreateVideo, or for the next clip's film.",
        "The recording as it was encoded, for CreateVideo, which ends it with the video.",
    )
    FUNCTION = "execute"
    SEARCH_ALIASES = ["hallo", "join", "concatenate", "long video"]

    @classmethod
    def INPUT_TYPES(cls):
        film = {
            "tooltip": "The video so far, from this node for the clip before. Leave it open for clip 0. "
            "Cost: the video stays in memory, about 0.1 GB a second at 720x480."
        }
        reference = {"tooltip": "Cuts off the black bars of a padded portrait. Connect it for all clips or for none."}
        model = {"tooltip": "Only for a model of your own, trained with 1 or 4 motion frames: it tells how many."}
        return {
            "required": {"clip": CLIP, "audio": inputs.AUDIO, "clip_index": inputs.CLIP_INDEX},
            "optional": {
                "film": ("IMAGE", film),
                "reference": (types.REFERENCE, reference),
                "model": ("MODEL", model),
                "seam_fade": inputs.SEAM_FADE,
            },
        }

    def execute(self, clip, audio, clip_index, film=None, reference=None, model=None, seam_fade=0):
        from .host.model import projectors_of

        motion_frames = MOTION_FRAMES if model is None else projectors_of(model).motion_frames
        whole = append_clip(film, clip, clip_index, Timeline(audio.frames, motion_frames), reference, seam_fade)
        return (whole, audio_of(audio.recording))


NODES = {
    "Hallo3MotionFrames": (Hallo3MotionFrames, "Hallo3 Motion Frames"),
    "Hallo3ColorMatch": (Hallo3ColorMatch, "Hallo3 Color Match"),
    "Hallo3AppendClip": (Hallo3AppendClip, "Hallo3 Append Clip"),
}
