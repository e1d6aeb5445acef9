"""The mask that shows the reference network only the face: a box around the face's oval, grown by 1.2.

Source: section 2 of the released sampler, where the oval is that of MediaPipe's landmarks, forehead to chin and cheek
to cheek. InsightFace's detector predicts a box as people annotated faces, which begins higher, in the hair.
`estimated_oval` computes the oval's box from that box and its five landmarks.

Boxes are (x0, y0, x1, y1) in pixels: columns x0 .. x1-1, rows y0 .. y1-1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError

Box = tuple[int, int, int, int]
Sides = tuple[float, float, float, float]  # a box before rounding

OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)  # MediaPipe's face oval: indices into its 478 landmarks
FACE_RATIO = 1.2

# The oval's sides from the detector's, in widths and heights of the detector's box: least squares on 322 portraits and
# video frames of 65 people and on their mirror images, with SCRFD of 0.5 GFLOP. On people that were not fitted, this
# box and the original's, grown, share 0.951 of their union (median; 5 %: 0.896), the detector's own 0.844 (0.789).
SIDE, SWING = 0.011, -0.225  # left and right: outwards, and with the nose's way from between the eyes
TOP = (-0.124, 0.625)  # constant, and per height of the eyes in the box
BOTTOM = (-0.104, 0.251)
TURN, EYES = 0.17, (0.33, 0.48)  # the fitted people's largest turn, and their eyes' height


def landmarks_to_pixels(normalised: Tensor, width: int, height: int) -> Tensor:
    """Converts landmarks (x, y) in 0..1 to pixels: ``n 2 -> n 2``, float64."""
    return normalised.cpu().double() * torch.tensor((width, height))


def points_box(points: Tensor) -> Box:
    """The bounding box of points ``n 2``, rounded half to even."""
    low, high = points.amin(0).round(), points.amax(0).round()
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def oval_box(landmarks: Tensor) -> Box:
    """The bounding box of the face oval, from MediaPipe's landmarks ``478 2`` in pixels."""
    return points_box(landmarks[list(OVAL)])


def estimated_oval(box: Sides, landmarks: Tensor) -> Sides:
    """The box of the face's oval, from a detector's box and landmarks ``5 2``: eyes, nose, corners of the mouth.

    The turn of the head and the height of the eyes count only as far as people differ in them, so that landmarks of a
    face that lies down or is badly seen move the box little.
    """
    (x0, y0, x1, y1), eyes, nose = box, landmarks[:2].mean(0), landmarks[2]
    width, height = x1 - x0, y1 - y0
    turn = min(max((nose[0] - eyes[0]).item() / width, -TURN), TURN)
    eyes_at = min(max((eyes[1].item() - y0) / height, EYES[0]), EYES[1])
    left, right = (outwards + SWING * turn for outwards in (-SIDE, SIDE))
    top, bottom = (constant + slope * eyes_at for constant, slope in (TOP, BOTTOM))
    return x0 + left * width, y0 + top * height, x1 + right * width, y1 + bottom * height


def grow_box(box: Box, image_width: int, image_height: int, ratio: float = FACE_RATIO) -> Box:
    """Scales a box by `ratio` around its centre, then moves it into the image.

    A box larger than the image ends at the right or bottom edge and starts below 0, as recorded from the original;
    `box_mask` clips it.
    """
    x0, y0, x1, y1 = box
    left, right = _grow_side(x0, x1, image_width, ratio)
    top, bottom = _grow_side(y0, y1, image_height, ratio)
    return left, top, right, bottom


def _grow_side(low: int, high: int, size: int, ratio: float) -> tuple[int, int]:
    middle, half = (low + high) // 2, int((high - low) * ratio // 2)
    low, high = middle - half, middle + half
    if low < 0:
        low, high = 0, high - low
    if high > size:
        low, high = low - (high - size), size
    return low, high


def box_mask(box: Box, height: int, width: int) -> Tensor:
    """A mask ``h w``, float32: 1 inside the box, 0 elsewhere. The box is clipped to the image."""
    x0, y0, x1, y1 = (max(0, side) for side in box)  # a negative index would count from the end
    mask = torch.zeros(height, width)
    mask[y0:y1, x0:x1] = 1
    return mask


def reference_mask(
    height: int,
    width: int,
    *,
    box: Sides | None = None,
    oval_landmarks: Tensor | None = None,
    mask: Tensor | None = None,
    ratio: float = FACE_RATIO,
) -> Tensor:
    """The mask ``h w`` in 0..1 of what the reference network sees of a portrait, from exactly one source.

    `box` (of the face's oval) and the box of `oval_landmarks` (MediaPipe's, ``478 2`` in pixels, as in the original)
    are grown by `ratio`. `mask` (painted by the user) is used as it is.

    Raises:
        InputError: the mask has the wrong size or values outside 0..1, or hides everything.
        ValueError: not exactly one source.
    """
    if sum(source is not None for source in (box, oval_landmarks, mask)) != 1:
        raise ValueError("a reference mask has one source: a box, landmarks or a mask")
    if mask is None:
        rounded = oval_box(oval_landmarks) if box is None else tuple(round(side) for side in box)
        mask = box_mask(grow_box(rounded, width, height, ratio), height, width)
    if tuple(mask.shape) != (height, width):
        found = "x".join(str(side) for side in reversed(mask.shape))
        raise InputError(f"face mask: {found}, but the portrait is {width}x{height}. Give a mask of that size.")
    mask = mask.float()
    if not (mask.min() >= 0 and mask.max() <= 1):  # NaN fails both
        raise InputError("face mask: values outside 0..1. Give a mask of 0 (hidden) to 1 (seen).")
    if mask.max() == 0:
        raise InputError("face mask: it hides the whole portrait. Paint the face, or leave the mask out.")
    return mask
