"""Finds the face's oval as the original does: with MediaPipe and the landmark file of the release's face folder."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from ..errors import InputError, own_command
from .face_mask import Sides, grow_box, landmarks_to_pixels, oval_box
from .face_runtime import load_mediapipe

LANDMARKER = "face_landmarker_v2_with_blendshapes.task"  # of the release
CROP = 2  # face boxes, of the second look
FROM_DETECTOR = "set mask_from to detector (--face-mask detector)"
PATTERN = "face_landmarker*.task"  # MediaPipe itself offers the same network as face_landmarker.task


def landmarker_file(folder: Path) -> Path:
    """The landmark file in a folder of face models.

    Raises:
        InputError: there is none.
    """
    files = sorted(folder.glob(PATTERN), key=lambda path: path.name != LANDMARKER)
    if not files:
        release = folder.parents[1] if folder.parent.name == "face_analysis" else "FOLDER"
        raise InputError(
            f"{folder}: no {LANDMARKER}, which MediaPipe finds a face's oval with. Put the release's there (4 MB): "
            f"run `{own_command('download', str(release), '--parts', 'face')}`. Or {FROM_DETECTOR}."
        )
    return files[0]


def check(folder: Path) -> ModuleType:
    """Returns MediaPipe, if a mask can be made with it and a file of the folder.

    Raises:
        InputError: the package or the landmark file is missing, or both.
    """
    missing = []
    for find in (lambda: landmarker_file(folder), load_mediapipe):
        try:
            found = find()
        except InputError as error:
            missing.append(error)
    if missing:
        raise InputError(" ".join(map(str, missing))) from missing[0]
    return found


def find_landmarks(image: Tensor, box: Sides, count: int, folder: Path, name: str = "portrait") -> Tensor:
    """The 478 landmarks of one face of a picture ``3 h w`` in 0..1: ``478 2`` in pixels, float64.

    box: the face's in the detector, of `count` faces; the landmarks are those whose oval shares most with it. MediaPipe
    misses small faces, so if it does not find this one, it looks again at a crop around it.

    Raises:
        InputError: the package or the landmark file is missing or damaged, or MediaPipe does not find the face.
    """
    mediapipe, file = check(folder), landmarker_file(folder)
    height, width = image.shape[-2:]
    x0, y0, x1, y1 = grow_box(tuple(round(side) for side in box), width, height, CROP)
    x0, y0 = max(0, x0), max(0, y0)
    for part, corner, faces in ((image, (0, 0), count), (image[:, y0:y1, x0:x1], (x0, y0), 1)):
        found = [landmarks + torch.tensor(corner) for landmarks in _all_landmarks(mediapipe, part, faces, file)]
        best = max(found, key=lambda landmarks: _shared(oval_box(landmarks), box), default=None)
        if best is not None and _shared(oval_box(best), box):
            return best
    raise InputError(
        f"{name}: MediaPipe does not find the face that the detector finds. For its mask, {FROM_DETECTOR}."
    )


def _all_landmarks(mediapipe: ModuleType, image: Tensor, count: int, file: Path) -> list[Tensor]:
    """The landmarks ``478 2`` of at most `count` faces of a picture ``3 h w``, in pixels."""
    rgb = (image.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=rgb.numpy())
    base = mediapipe.tasks.BaseOptions(model_asset_buffer=file.read_bytes())
    options = mediapipe.tasks.vision.FaceLandmarkerOptions(base_options=base, num_faces=count)
    try:
        with mediapipe.tasks.vision.FaceLandmarker.create_from_options(options) as landmarker:
            found = landmarker.detect(picture).face_landmarks
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{file}: MediaPipe cannot use it ({reason}). Download it again.") from error
    height, width = image.shape[-2:]
    return [landmarks_to_pixels(torch.tensor([(p.x, p.y) for p in face]), width, height) for face in found]


def _shared(one: Sides, other: Sides) -> float:
    """Area of the intersection over that of the union."""
    (a, b, c, d), (e, f, g, h) = one, other
    both = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
    return both / ((c - a) * (d - b) + (g - e) * (h - f) - both)
