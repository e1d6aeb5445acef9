"""Face detection, face embedding, and the choice of the face whose mask the reference network sees.

Source: section 2 of the released sampler. The embedding, 512 values, not normalised, is that of the largest face that
InsightFace detects at 640 x 640. There it misses faces that fill the picture, so if it finds none, it looks again at
smaller sizes. The mask comes from `face_mask.py`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, own_command
from ..weights.kinds import FACE_DETECTOR, FACE_RECOGNISER, identify_onnx
from ..weights.onnx_outline import read_onnx_outline
from . import face_landmarks
from .face_mask import FACE_RATIO, Sides, estimated_oval, oval_box, reference_mask
from .face_runtime import PROVIDERS, in_utf8, load_model_zoo
from .samples import PORTRAIT

log = logging.getLogger(__name__)

EMBEDDING = 512
DETECTOR_SIZE, CERTAIN = 640, 0.5  # the original's detector input in pixels, and its lowest accepted score
# If that finds no face, the next of these looks follow, for faces that fill the picture. There people score 0.77 and
# more, dogs and an alpaca up to 0.72. A picture shorter than SMALL is enlarged so much that people score 0.52 and more.
SMALLER_SIZES, SURE, SMALL = (448, 320, 192), 0.75, 64
# The toy's detector is less certain of photographs: with these, 119 of 120 drawn portraits pass (of close crops, 52 of
# 60), and 5 of 66 photographs and paintings. With the scores above it would be 39.
TOY_SIZES, TOY_CERTAIN, TOY_SURE = (448, 320), 0.75, 0.85
DETECTOR, RECOGNISER = "scrfd_10g_bnkps.onnx", "glintr100.onnx"
NETWORKS = {
    FACE_DETECTOR: ("face detector", DETECTOR, "detection"),
    FACE_RECOGNISER: ("face recogniser", RECOGNISER, "recognition"),
}  # by task: name in messages, official file name, InsightFace's task name
OFFICIAL = {name: task for task, (_, name, _) in NETWORKS.items()}
TOY_MARK = "toy weights"  # prefix of the description of our toy models
DRAWN_MARK = f"{TOY_MARK}: knows the people of the drawn world only"  # of those that learnt
RELEASE_SIZE = "40 GB"
MASKS = ("detector", "mediapipe")  # where the face's oval comes from: estimated from the detector's box, or found
PLACES = (".", "models", "face_analysis/models", "face_analysis")


@dataclass(frozen=True)
class Face:
    """A face in a picture."""

    embedding: Tensor  # ``d``, d = 512, not normalised; zeros if no face was found
    box: Sides  # the detector's, pixels
    landmarks: Tensor  # ``n 2`` in pixels: eyes, nose, corners of the mouth; n = 5, or 0 if no face was found
    index: int  # position from left to right
    count: int  # faces in the picture
    score: float  # the detector's confidence, 0..1
    oval: Sides  # the box of the face's oval, forehead to chin and cheek to cheek, pixels


@dataclass(frozen=True)
class FaceAnalyser:
    """InsightFace's detector and recogniser; see `load_face_analyser`."""

    detector: Any
    recogniser: Any
    folder: Path  # of their files
    note: str = ""  # what the detector's file says of itself

    @property
    def is_toy(self) -> bool:
        return self.note.startswith(TOY_MARK)

    def analyse(self, image: Tensor) -> list[Face]:
        """Finds the faces in a picture ``3 h w`` in 0..1 (RGB), largest box first."""
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"expected an image 3 h w, got {list(image.shape)}")
        rgb = (image.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
        bgr = rgb.flip(0).permute(1, 2, 0).contiguous().numpy()
        boxes, landmarks = self._detect(bgr)
        leftmost_first = sorted(range(len(boxes)), key=lambda i: boxes[i][0] + boxes[i][2])
        faces = []
        for index, i in enumerate(leftmost_first):
            with warnings.catch_warnings():
                # InsightFace's alignment calls a deprecated scikit-image function
                warnings.simplefilter("ignore", FutureWarning)
                embedding = self.recogniser.get(bgr, SimpleNamespace(kps=landmarks[i]))
            *box, score = (float(value) for value in boxes[i])
            points = torch.tensor(landmarks[i], dtype=torch.float32)
            oval = estimated_oval(tuple(box), points)
            faces.append(Face(torch.tensor(embedding).float(), tuple(box), points, index, len(boxes), score, oval))
        return sorted(faces, key=_area, reverse=True)

    def looks(self, shortest: int) -> list[tuple[int, float]]:
        """The looks at a picture whose shorter side has so many pixels: detector input, and lowest accepted score."""
        sizes, certain, sure = SMALLER_SIZES, CERTAIN, SURE if shortest >= SMALL else CERTAIN
        if self.note == DRAWN_MARK:
            sizes, certain, sure = TOY_SIZES, TOY_CERTAIN, TOY_SURE
        is_fixed = isinstance(self.detector.session.get_inputs()[0].shape[2], int)
        return [(DETECTOR_SIZE, certain), *((size, sure) for size in sizes if not is_fixed)]

    def _detect(self, bgr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes with scores ``n 5`` and landmarks ``n 5 2`` of the first look that finds a face."""
        for number, (size, certain) in enumerate(self.looks(min(bgr.shape[:2]))):
            boxes, landmarks = self.detector.detect(bgr, input_size=(size, size) if number else None)
            is_face = boxes[:, 4] >= certain
            if is_face.any():
                break
        return boxes[is_face], landmarks[is_face]


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
    note = detector.session.get_modelmeta().description
    return FaceAnalyser(detector, recogniser, paths[0].parent, note)


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
    """Opens a network's file with InsightFace, and warns about a provider that did not start.

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
            f"{name}: no face found (looked at {DETECTOR_SIZE}x{DETECTOR_SIZE} and smaller). Use a picture that shows "
            'one whole face, at least 1/8 of the width, or set "when no face" to "whole image" (--face whole).'
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


def toy_advice(folder: str | Path = "FOLDER", sample: str | Path = PORTRAIT) -> str:
    """What to say to someone who uses the toy's weights: `sample` names a portrait for them, and `folder` is where a
    release would be downloaded to."""
    download = own_command("download", str(folder))
    return (
        f"These are the toy's weights, which know drawn people only. Try the sample, {sample}; for "
        f"photographs get the release ({RELEASE_SIZE}): run `{download}`."
    )


def embed_face(
    image: Tensor,
    analyser: FaceAnalyser,
    which: str | int = "largest",
    when_none: str = "error",
    *,
    ratio: float = FACE_RATIO,
    mask_from: str = "detector",
    name: str = "portrait",
    if_toy: str = "",
) -> tuple[Face, Tensor]:
    """The chosen face of a picture ``3 h w`` in 0..1, and its reference mask ``h w``.

    If no face is found and `when_none` is "whole image", the embedding is zeros, as in the original, and the mask ones.
    mask_from: one of `MASKS`; if_toy: the advice if the toy's weights find no face (default: `toy_advice()`).

    Raises:
        InputError: no face was found (unless "whole image"), not the requested one, or MediaPipe cannot find it.
    """
    if when_none not in ("error", "whole image"):
        raise InputError(f'when no face: {when_none!r}, expected "error" or "whole image".')
    check_mask(mask_from, analyser.folder)
    height, width = image.shape[-2:]
    faces = analyser.analyse(image)
    if not faces and when_none == "whole image":
        log.warning("%s: no face found, the whole picture serves as reference and there is no face embedding", name)
        whole = (0.0, 0.0, float(width), float(height))
        nobody = Face(torch.zeros(EMBEDDING), whole, torch.zeros(0, 2), 0, 0, 0.0, whole)
        return nobody, torch.ones(height, width)
    if not faces and analyser.is_toy:
        raise InputError(f"{name}: no drawn face found. {if_toy or toy_advice()}")
    face = choose_face(faces, which, name)
    eyes, mouth = face.landmarks[:2, 1].mean(), face.landmarks[3:, 1].mean()
    if eyes > mouth:
        log.warning("%s: the face looks upside down, with its eyes below its mouth: turn the picture first", name)
    if mask_from == "mediapipe":
        landmarks = face_landmarks.find_landmarks(image, face.box, face.count, analyser.folder, name)
        face = replace(face, oval=oval_box(landmarks))
    return face, reference_mask(height, width, box=face.oval, ratio=ratio)


def check_mask(mask_from: str, folder: Path) -> None:
    """Reports early what `embed_face` would lack to find the oval.

    Raises:
        InputError: an unknown choice, or MediaPipe's package or its landmark file is missing.
    """
    if mask_from not in MASKS:
        raise InputError(f"face mask from {mask_from!r}: expected one of {', '.join(MASKS)}.")
    if mask_from == "mediapipe":
        face_landmarks.check(folder)
