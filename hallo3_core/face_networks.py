"""The two face networks, SCRFD and ArcFace, on ONNX Runtime: pictures in, boxes, landmarks and embeddings out.

Their files are InsightFace's; what surrounds them is written here, so that ONNX Runtime, in whatever build, is all that
has to be installed. Source: J. Guo et al., "Sample and Computation Redistribution for Efficient Face Detection" (2021);
J. Deng et al., "ArcFace" (2018); S. Umeyama, "Least-squares estimation of transformation parameters" (1991).

Pictures are ``3 h w``, RGB, whole numbers 0..255 held as float32, as the networks' 8-bit pictures were.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

DETECTOR_SIZE = 640
STRIDES = (8, 16, 32)  # pixels between grid points, on SCRFD's three grids
POINTS = 5  # landmarks: eyes, nose, corners of the mouth
CERTAIN = 0.5  # score from which a box counts
SAME = 0.4  # overlap from which two boxes are one face
CROP = 112  # pixels: side of the recogniser's picture
TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
# Where ArcFace's training pictures have the landmarks.


class Detector:
    """SCRFD with landmarks, looking at a picture scaled into 640 x 640."""

    def __init__(self, session: Any, path: Path):
        outputs = len(session.get_outputs())
        if outputs != 3 * len(STRIDES):
            raise ValueError(f"{outputs} outputs, expected scores, boxes and landmarks on three grids")
        self.session, self.path = session, path

    def detect(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes ``n 4``, landmarks ``n 5 2`` in pixels and scores ``n`` of a picture's faces, surest first."""
        shown, scale = fit(picture)
        grids = {}  # by what a row holds and by rows: the order of the outputs is not agreed
        for values in _run(self.session, (shown - 127.5) / 128):
            rows = values.reshape(-1, values.shape[-1])
            grids[rows.shape[1], len(rows)] = rows
        boxes, points, scores = [], [], []
        for stride, rows in zip(STRIDES, sorted({rows for _, rows in grids}, reverse=True), strict=True):
            score, distance, offset = (grids[width, rows] for width in (1, 4, 2 * POINTS))
            sure = score[:, 0] >= CERTAIN
            centre = grid_points(stride, rows)[sure]
            near, far = distance[sure].mul(stride).split(2, dim=1)
            boxes.append(torch.cat((centre - near, centre + far), dim=1))
            points.append(centre[:, None] + offset[sure].view(-1, POINTS, 2) * stride)
            scores.append(score[sure, 0])
        box, landmarks, certainty = torch.cat(boxes) / scale, torch.cat(points) / scale, torch.cat(scores)
        kept = without_doubles(box, certainty)
        return box[kept], landmarks[kept], certainty[kept]


class Recogniser:
    """ArcFace: whose face it is."""

    def __init__(self, session: Any, path: Path):
        self.session, self.path = session, path

    def embed(self, picture: Tensor, landmarks: Tensor) -> Tensor:
        """The embedding ``d``, not normalised, of the face with these landmarks ``5 2``."""
        (embedding,) = _run(self.session, (align(picture, landmarks) - 127.5) / 127.5)
        return embedding.flatten()


def _run(session: Any, picture: Tensor) -> list[Tensor]:
    """A network's outputs for one picture ``3 h w``."""
    outputs = session.run(None, {session.get_inputs()[0].name: picture[None].contiguous().numpy()})
    return [torch.from_numpy(values).float() for values in outputs]


def fit(picture: Tensor) -> tuple[Tensor, float]:
    """The picture scaled into the upper left of a black square of 640, and the scale: pixels there for one here."""
    height, width = picture.shape[-2:]
    if height > width:
        rows, columns = DETECTOR_SIZE, int(DETECTOR_SIZE * width / height)
    else:
        rows, columns = int(DETECTOR_SIZE * height / width), DETECTOR_SIZE
    scaled = F.interpolate(picture[None], size=(rows, columns), mode="bilinear", align_corners=False)[0].round()
    return F.pad(scaled, (0, DETECTOR_SIZE - columns, 0, DETECTOR_SIZE - rows)), rows / height


def grid_points(stride: int, rows: int) -> Tensor:
    """Pixels x, y that a grid's rows stand for, ``rows 2``: in reading order, anchors of a point together."""
    side = DETECTOR_SIZE // stride
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    points = torch.stack((x, y), dim=-1).view(-1, 2) * float(stride)
    return points.repeat_interleave(rows // len(points), dim=0)


def without_doubles(boxes: Tensor, scores: Tensor) -> list[int]:
    """Which boxes ``n 4`` remain when each takes away those that it overlaps and that are less sure; surest first."""
    x0, y0, x1, y1 = boxes.T
    area = (x1 - x0 + 1) * (y1 - y0 + 1)  # edges are pixels that belong to the box, as SCRFD was measured
    order, kept = scores.argsort(descending=True, stable=True), []
    while len(order):
        first, rest = order[0], order[1:]
        across = torch.minimum(x1[first], x1[rest]) - torch.maximum(x0[first], x0[rest]) + 1
        down = torch.minimum(y1[first], y1[rest]) - torch.maximum(y0[first], y0[rest]) + 1
        shared = across.clamp_min(0) * down.clamp_min(0)
        kept.append(int(first))
        order = rest[shared / (area[first] + area[rest] - shared) <= SAME]
    return kept


def align(picture: Tensor, landmarks: Tensor) -> Tensor:
    """The face turned, scaled and moved so that its landmarks lie as in training: ``3 112 112``, black outside.

    Points are complex numbers, so a turn with a scale is one factor, and least squares one quotient.
    """
    target = torch.view_as_complex(torch.tensor(TEMPLATE, dtype=torch.float64))
    source = torch.view_as_complex(landmarks.double().contiguous())
    here, there = source - source.mean(), target - target.mean()
    factor = (here.conj() * there).sum() / here.abs().square().sum().clamp_min(1e-9)
    y, x = torch.meshgrid(torch.arange(CROP), torch.arange(CROP), indexing="ij")
    wanted = torch.view_as_real((torch.complex(x.double(), y.double()) - target.mean()) / factor + source.mean())
    height, width = picture.shape[-2:]
    places = wanted / torch.tensor((width - 1, height - 1)) * 2 - 1  # -1..1 from the first pixel to the last
    return F.grid_sample(picture[None], places[None].float(), align_corners=True)[0].round()
