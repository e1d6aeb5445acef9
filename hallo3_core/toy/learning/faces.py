"""Face embeddings of drawn films. Their keypoints are known, so this needs the recogniser but no detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import require

SIDE = 112
# Positions of eyes, nose and mouth corners that ArcFace models expect, in pixels of 112 x 112.
TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
BATCH = 256


def embed_faces(recogniser: Path, pictures: np.ndarray, points: np.ndarray) -> Tensor:
    """Pictures ``n h w 3`` uint8 with keypoints ``n 5 2`` in pixels -> embeddings ``n 512``, not normalised.

    Raises:
        InputError: ONNX Runtime is not installed.
    """
    onnxruntime = require("onnxruntime", "onnxruntime", "embedding faces")
    session = onnxruntime.InferenceSession(str(recogniser), providers=["CPUExecutionProvider"])
    name, found = session.get_inputs()[0].name, []
    for start in range(0, len(pictures), BATCH):
        faces = aligned(pictures[start : start + BATCH], points[start : start + BATCH])
        found.append(session.run(None, {name: (faces * 2 - 1).numpy()})[0])
    return torch.from_numpy(np.concatenate(found)).float()


def aligned(pictures: np.ndarray, points: np.ndarray) -> Tensor:
    """Aligns faces to the template by rotation, shift and scale: ``n 3 112 112`` in 0..1, RGB."""
    height, width = pictures.shape[1:3]
    rows, columns = np.mgrid[:SIDE, :SIDE]
    grids = []
    for own in points:
        a, b, x, y = _similarity(TEMPLATE, own)
        # each pixel's position in the picture
        place = np.stack((a * columns - b * rows + x, b * columns + a * rows + y), -1)
        grids.append((2 * place + 1) / (width, height) - 1)
    source = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255
    grid = torch.from_numpy(np.stack(grids)).float()
    return F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, float, float, float]:
    """Least-squares fit of a, b, x, y in (a u - b v + x, b u + a v + y)."""
    u, v = source.T
    ones, zeros = np.ones_like(u), np.zeros_like(u)
    matrix = np.concatenate((np.stack((u, -v, ones, zeros), 1), np.stack((v, u, zeros, ones), 1)))
    return tuple(np.linalg.lstsq(matrix, np.concatenate((target[:, 0], target[:, 1])), rcond=None)[0])
