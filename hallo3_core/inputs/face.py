"""Face detection, face embedding, and the mask that shows the reference network only the face.

Source: section 2 of the released sampler. The reference is masked by a box around MediaPipe's face oval, grown by 1.2.
The embedding, 512 values, not normalised, is that of the largest face that InsightFace detects at 640 x 640. Here any
box can be used. InsightFace's detector predicts its box directly, as people annotated faces. The oval's box is measured
from landmarks, forehead to chin and cheek to cheek. The two differ by some pixels; the grown box covers both.

Boxes are (x0, y0, x1, y1) in pixels: columns x0 .. x1-1, rows y0 .. y1-1.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..weights.kinds import FACE_DETECTOR, FACE_RECOGNISER, identify_onnx
from ..weights.onnx_outline import read_onnx_outline
from .face_runtime import PROVIDERS, in_utf8, load_model_zoo

log = logging.getLogger(__name__)

Box = tuple[int, int, int, int]

OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)  # MediaPipe's face oval: indices into its 478 landmarks
FACE_RATIO = 1.2
EMBEDDING = 512
DETECTOR_SIZE, CERTAIN = 640, 0.5  # detector input in pixels; lowest accepted score
DETECTOR, RECOGNISER = "scrfd_10g_bnkps.onnx", "glintr100.onnx"
NETWORKS = {
    FACE_DETECTOR: ("face detector", DETECTOR, "detection"),
    FACE_RECOGNISER: ("face recogniser", RECOGNISER, "recognition"),
}  # by task: name in messages, official file name, InsightFace's task name
OFFICIAL = {name: task for task, (_, name, _) in NETWORKS.items()}
TOY_MARK = "toy weights"  # prefix of the description of our toy models
PLACES = (".", "models", "face_analysis/models", "face_analysis")


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
    box: tuple[float, float, float, float] | None = None,
    oval_landmarks: Tensor | None = None,
    mask: Tensor | None = None,
    ratio: float = FACE_RATIO,
) -> Tensor:
    """The mask ``h w`` in 0..1 of what the reference network sees of a portrait, from exactly one source.

    `box` (from a detector) and the box of `oval_landmarks` (MediaPipe's, ``478 2`` in pixels, as in the original) are
    grown by `ratio`. `mask` (painted by the user) is used as it is.

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


@dataclass(frozen=True)
class Face:
    """A face in a picture."""

    embedding: Tensor  # ``d``, d = 512, not normalised; zeros if no face was found
    box: tuple[float, float, float, float]
    landmarks: Tensor  # ``n 2`` in pixels: eyes, nose, corners of the mouth; n = 5, or 0 if no face was found
    index: int  # position from left to right
    count: int  # faces in the picture
    score: float  # the detector's confidence, 0..1


@dataclass(frozen=True)
class FaceAnalyser:
    """InsightFace's detector and recogniser; see `load_face_analyser`."""

    detector: Any
    recogniser: Any

    def analyse(self, image: Tensor) -> list[Face]:
        """Finds the faces in a picture ``3 h w`` in 0..1 (RGB), largest box first."""
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"expected an image 3 h w, got {list(image.shape)}")
        rgb = (image.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
        bgr = rgb.flip(0).permute(1, 2, 0).contiguous().numpy()
        boxes, landmarks = self.detector.detect(bgr)
        leftmost_first = sorted(range(len(boxes)), key=lambda i: boxes[i][0] + boxes[i][2])
        faces = []
        for index, i in enumerate(leftmost_first):
            with warnings.catch_warnings():
                # InsightFace's alignment calls a deprecated scikit-image function
                warnings.simplefilter("ignore", FutureWarning)
                embedding = self.recogniser.get(bgr, SimpleNamespace(kps=landmarks[i]))
            *box, score = (float(value) for value in boxes[i])
            points = torch.tensor(landmarks[i], dtype=torch.float32)
            faces.append(Face(torch.tensor(embedding).float(), tuple(box), points, index, len(boxes), score))
        return sorted(faces, key=_area, reverse=True)


def _area(face: Face) -> float:
    x0, y0, x1, y1 = face.box
    return (x1 - x0) * (y1 - y0)


def load_face_analyser(folder: str | Path, provider: str = "CPU") -> FaceAnalyser:
    """Loads detector and recogniser from the ONNX files in a folder, its `models` folder, or a release.

    Tries the official names first; if both exist, opens no other file. Never downloads anything. Works with InsightFace
    0.7 and 2. `provider` is one of `PROVIDERS`; operations that it does not support run on the CPU.

    Raises:
        InputError: missing folder, detector, recogniser or package, or an unknown or unavailable provider.
    """
    zoo = load_model_zoo(provider)
    folder = Path(folder)
    places = [folder / place for place in PLACES]
    paths = next((found for place in places if (found := sorted(place.glob("*.onnx")))), None)
    if paths is None:
        raise InputError(f"{folder}: no ONNX face models here or in models. Expected {DETECTOR} and {RECOGNISER}.")
    found: dict[str, Path] = {}
    seen = []
    for path in sorted(paths, key=lambda path: path.name not in OFFICIAL):
        task, label = _task(path)
        seen.append(f"{path.name} ({label})")
        found.setdefault(task, path)
        if NETWORKS.keys() <= found.keys():
            break
    for task, (label, expected, _) in NETWORKS.items():
        if task not in found:
            place, others = paths[0].parent, ", ".join(seen)
            raise InputError(f"{place}: no {label}, only {others}. Put the release's {expected} there.")
    if found[FACE_RECOGNISER].name != RECOGNISER:
        log.warning("%s: Hallo3 was trained with %s; the likeness may suffer", found[FACE_RECOGNISER], RECOGNISER)
    detector, recogniser = (_open(found[task], task, zoo, provider) for task in NETWORKS)
    with contextlib.redirect_stdout(io.StringIO()):
        detector.prepare(0, input_size=(DETECTOR_SIZE, DETECTOR_SIZE), det_thresh=CERTAIN)
    return FaceAnalyser(detector, recogniser)


def _task(path: Path) -> tuple[str, str]:
    """The task of an ONNX file and its name in messages, from its official file name or else its inputs and outputs."""
    if path.name in OFFICIAL:
        return OFFICIAL[path.name], "the release's"
    try:
        kind = identify_onnx(read_onnx_outline(path))
    except (OSError, ValueError):
        return "", "unreadable"
    return next(iter(kind.parts), ""), kind.detail


def _open(path: Path, task: str, zoo: ModuleType, provider: str) -> Any:
    """Opens a network's file with InsightFace, and warns about toy weights and about a provider that did not start.

    Raises:
        InputError: ONNX Runtime cannot read the file, or it is another network.
    """
    label, _, name = NETWORKS[task]
    providers = list(dict.fromkeys((PROVIDERS[provider], PROVIDERS["CPU"])))
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the providers
            model = in_utf8(path, lambda readable: zoo.get_model(readable, providers=providers))
    except Exception as error:  # ONNX Runtime's exceptions have no common class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: not a readable ONNX model ({reason}). Download it again.") from error
    # the recogniser needs the landmarks
    if getattr(model, "taskname", None) != name or not getattr(model, "use_kps", True):
        raise InputError(f"{path}: InsightFace finds another network in it than a {label}. Download it again.")
    description = model.session.get_modelmeta().description
    if description.startswith(TOY_MARK):
        log.warning("%s: %s", path, description)
    if (running := model.session.get_providers()[0]) != providers[0]:
        log.warning("%s: %s did not start, it runs on %s", path, providers[0], running)
    return model


def choose_face(faces: list[Face], which: str | int = "largest", name: str = "portrait") -> Face:
    """Chooses a face of a picture: "largest", "leftmost", "rightmost", or its number from left to right, starting at 0.

    Raises:
        InputError: there are no faces or too few, or `which` is not one of these.
    """
    if not faces:
        raise InputError(
            f"{name}: no face found (looked at {DETECTOR_SIZE}x{DETECTOR_SIZE}). Use a picture that shows one whole "
            'face, at least 1/8 of the width, or set "when no face" to "whole image" (--face whole).'
        )
    ordered = sorted(faces, key=lambda face: face.index)
    if which == "largest":
        return max(faces, key=_area)
    if which in ("leftmost", "rightmost"):
        return ordered[0 if which == "leftmost" else -1]
    if not str(which).isdecimal():
        raise InputError(f"face {which!r}: expected largest, leftmost, rightmost or a number from left to right.")
    if int(which) >= len(ordered):
        raise InputError(f"{name}: no face {which}: it has {len(ordered)}, counted from 0, left to right.")
    return ordered[int(which)]


def embed_face(
    image: Tensor,
    analyser: FaceAnalyser,
    which: str | int = "largest",
    when_none: str = "error",
    *,
    ratio: float = FACE_RATIO,
    name: str = "portrait",
) -> tuple[Face, Tensor]:
    """The chosen face of a picture ``3 h w`` in 0..1, and its reference mask ``h w``.

    If no face is found and `when_none` is "whole image", the embedding is zeros, as in the original, and the mask ones.

    Raises:
        InputError: no face was found (unless "whole image"), or not the requested one.
    """
    if when_none not in ("error", "whole image"):
        raise InputError(f'when no face: {when_none!r}, expected "error" or "whole image".')
    height, width = image.shape[-2:]
    faces = analyser.analyse(image)
    if not faces and when_none == "whole image":
        log.warning("%s: no face found, the whole picture serves as reference and there is no face embedding", name)
        nobody = Face(torch.zeros(EMBEDDING), (0.0, 0.0, float(width), float(height)), torch.zeros(0, 2), 0, 0, 0.0)
        return nobody, torch.ones(height, width)
    face = choose_face(faces, which, name)
    eyes, mouth = face.landmarks[:2, 1].mean(), face.landmarks[3:, 1].mean()
    if eyes > mouth:
        log.warning("%s: the face looks upside down, with its eyes below its mouth: turn the picture first", name)
    return face, reference_mask(height, width, box=face.box, ratio=ratio)
