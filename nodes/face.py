"""Face node: detects the face and computes its embedding."""

from __future__ import annotations

from torch import Tensor

from ..hallo3_core.errors import InputError
from ..hallo3_core.inputs.face import MASKS, Face, FaceAnalyser, embed_face, toy_advice
from ..hallo3_core.inputs.face_mask import FACE_RATIO
from ..hallo3_core.inputs.samples import NAMES
from . import types
from .images import image_of, marked, portrait_of
from .words import FIND

FACES = ["largest", "leftmost", "rightmost", *map(str, range(10))]
LARGEST_RATIO = 4.0


COMMAND_LINE = (" (--face whole)", " (--face-mask detector)")  # advice that does not apply here


def find_face(
    picture: Tensor,
    analyser: FaceAnalyser,
    which: str,
    when_none: str,
    ratio: float,
    mask_from: str = MASKS[0],
    if_toy: str = "",
) -> tuple[Face, Tensor]:
    """Returns the face in a picture ``1 3 h w`` and its mask ``h w``.

    Raises:
        InputError: no face, no face at the requested position, an invalid ratio, or MediaPipe lacks something.
    """
    chosen = dict(ratio=ratio, mask_from=mask_from, if_toy=if_toy)
    try:
        return embed_face(picture[0], analyser, which, when_none, **chosen)
    except InputError as error:
        message = str(error)
        for words in COMMAND_LINE:
            message = message.replace(words, "")
        raise InputError(message) from error


def summary(face: Face) -> str:
    """Describes the detected face to the user."""
    if face.count == 0:
        return "no face found: the whole picture is the reference, without a face embedding"
    if face.count == 1:
        return f"1 face, certainty {face.score:.0%}"
    last = face.count - 1
    return f"{face.count} faces, 0 to {last} from left to right; took {face.index}: which_face takes another"


class Hallo3FaceEmbed:
    """Detects and embeds the face of a portrait."""

    CATEGORY = "Hallo3/inputs"
    DESCRIPTION = (
        "Finds the face in a portrait: whose it is, and a mask that leaves only it for the reference network. "
        "Once per portrait."
    )
    RETURN_TYPES = (types.FACE, "MASK", "IMAGE")
    RETURN_NAMES = ("face", "mask", "marked")
    OUTPUT_TOOLTIPS = (
        "The face's embedding, for sampling.",
        "1 where the face is, the box of its oval grown by box_ratio, 0 elsewhere: for Hallo3 Reference.",
        "The portrait with the oval's box, darkened where the mask hides it: look whether it is the right face.",
    )
    FUNCTION = "execute"
    SEARCH_ALIASES = [*FIND, "face detection", "arcface", "insightface"]

    @classmethod
    def INPUT_TYPES(cls):
        image = {
            "tooltip": "One picture with a whole face, best at least 1/8 of its width, looking ahead, evenly lit. "
            "Cost: runs once for each portrait."
        }
        which = {
            "default": "largest",
            "tooltip": "Which face, if there are several: the largest, leftmost or rightmost, or a number counted from "
            "the left, from 0.",
        }
        when_none = {
            "default": "error",
            "tooltip": "error stops the run; whole image accepts a picture without a face (a drawing, an animal). "
            "Cost: with whole image, less likeness.",
        }
        ratio = {
            "default": FACE_RATIO,
            "min": 1.0,
            "max": LARGEST_RATIO,
            "step": 0.05,
            "tooltip": "How much larger than the face's oval the mask is: 1.2 as the original; 1.5 includes the hair.",
        }
        mask_from = {
            "default": MASKS[0],
            "tooltip": "detector estimates the face's oval from its box and landmarks; mediapipe finds it like the "
            "original, with the package of that name and the release's landmark file. "
            "Cost: mediapipe takes a moment longer.",
        }
        return {
            "required": {
                "image": ("IMAGE", image),
                "face_analysis": (types.FACE_ANALYSIS, {"tooltip": "From Hallo3 Face Analysis Loader."}),
                "which_face": (FACES, which),
                "when_no_face": (["error", "whole image"], when_none),
                "box_ratio": ("FLOAT", ratio),
            },
            # optional, so that an API form of an older version runs
            "optional": {"mask_from": (list(MASKS), mask_from)},
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def execute(self, image, face_analysis, which_face, when_no_face, box_ratio, mask_from=MASKS[0], node_id=None):
        from .host import files, progress

        picture, if_toy = portrait_of(image), toy_advice(files.release_folder(), next(iter(NAMES)))
        choices = (which_face, when_no_face, box_ratio, mask_from)
        face, mask = find_face(picture, face_analysis, *choices, if_toy)
        notes = [summary(face), *([if_toy] if face_analysis.is_toy else [])]
        progress.show_text("\n".join(notes), node_id)
        shown = image_of(marked(picture, mask, face.oval))
        return (face, mask[None].to(image.device), shown.to(image.device))


NODES = {"Hallo3FaceEmbed": (Hallo3FaceEmbed, "Hallo3 Face Embed")}
