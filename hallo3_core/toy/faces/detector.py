"""The detector: one small convolutional network at SCRFD's coarsest stride, with SCRFD's interface.

InsightFace puts a picture into the upper left corner of a black square of 640 pixels and passes it in -1..1. The
network averages blocks of 8 and downsamples to cells of 32 pixels. For each cell it predicts the probability that a
face's centre is near, the distances to the box's sides, and the keypoints, in cells from the cell's upper left corner.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...inputs.face import DETECTOR_SIZE
from ..onnx_graph import Graph

BLOCK = 8  # pixels of the blocks that the input is averaged in
STRIDE = 32  # pixels per cell
STRIDES = (8, 16, 32)  # SCRFD's; the finer two never fire here
ANCHORS = 2  # per cell, as in SCRFD; the second never fires
GRID = DETECTOR_SIZE // STRIDE
NEAR = 1.3  # largest distance from a face's centre at which a cell should fire, in cells
LAYERS = ((3, 16, 5, 2, 1), (16, 32, 3, 2, 1), (32, 40, 3, 1, 1), (40, 40, 3, 1, 2), (40, 40, 3, 1, 3))


class Detector(nn.Module):
    """Predictions per cell of a square.

    forward: block averages ``n 3 80 80`` in -1..1 to ``n 15 20 20``: a logit, four sides, five points x, y.
    """

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, k, stride, padding=(k // 2) * dilation, dilation=dilation)
            for a, b, k, stride, dilation in LAYERS
        )
        self.head = nn.Conv2d(LAYERS[-1][1], 15, 1)
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, squares: Tensor) -> Tensor:
        for layer in self.layers:
            squares = F.relu(layer(squares))
        return self.head(squares)


def lay_out(pictures: Tensor, scale: Tensor, corner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Crops pictures to detector inputs: ``n 3 h w`` in 0..1 to squares ``n 3 80 80`` in -1..1.

    The crop starts at `corner` (``n 2``, x and y in pixels), and one pixel becomes `scale` (``n``) pixels of the
    square. The area outside the picture is black. Also returns scale and corner for boxes: ``n 1 1`` and ``n 1 2``.
    """
    side = DETECTOR_SIZE // BLOCK
    height, width = pictures.shape[-2:]
    at = (torch.arange(side * 2, device=pictures.device) + 0.5) * BLOCK / 2  # two samples per block, then averaged
    x = at[None] / scale[:, None] + corner[:, :1]
    y = at[None] / scale[:, None] + corner[:, 1:]
    grid = torch.stack(
        [
            (2 * x / width - 1)[:, None].expand(-1, side * 2, -1),
            (2 * y / height - 1)[:, :, None].expand(-1, -1, side * 2),
        ],
        -1,
    )
    squares = F.avg_pool2d(F.grid_sample(pictures, grid, align_corners=False, padding_mode="zeros"), 2)
    return squares * 2 - 1, scale[:, None, None], corner[:, None]


def targets(boxes: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Training targets of the cells, from boxes ``n m 4`` and points ``n m 5 2`` in pixels of the square.

    Returns for each cell of ``n 20 20``: whether it should fire (1, 0, or -1 if it does not matter), and the
    nearest face's sides ``n 4 20 20`` and points ``n 10 20 20`` in cells. A box of zero width means no face.
    """
    cells = torch.arange(GRID, device=boxes.device) * float(STRIDE)
    y, x = torch.meshgrid(cells, cells, indexing="ij")
    real = (boxes[..., 2] > boxes[..., 0])[..., None, None]
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    away = torch.hypot(x - middle[..., 0, None, None], y - middle[..., 1, None, None]) / STRIDE
    away = torch.where(real, away, 1e3)  # n m 20 20
    distance, nearest = away.min(1)
    fires = torch.where(distance < NEAR, 1.0, torch.where(distance < NEAR + 1, -1.0, 0.0))
    n = len(boxes)
    flat = nearest.reshape(n, -1, 1)
    box = torch.gather(boxes, 1, flat.expand(-1, -1, 4)).transpose(1, 2).reshape(n, 4, GRID, GRID)
    point = torch.gather(points.flatten(2), 1, flat.expand(-1, -1, 10)).transpose(1, 2).reshape(n, 10, GRID, GRID)
    sides = torch.stack([x - box[:, 0], y - box[:, 1], box[:, 2] - x, box[:, 3] - y], 1) / STRIDE
    offsets = (point - torch.stack([x, y] * 5)) / STRIDE
    return fires, sides, offsets


def loss(found: Tensor, fires: Tensor, sides: Tensor, points: Tensor) -> Tensor:
    """Focal loss for cells whose firing matters, plus absolute errors of box and points for cells that should fire."""
    logit, chance = found[:, 0], found[:, 0].sigmoid()
    wrong = torch.where(fires == 1, 1 - chance, chance)
    each = F.binary_cross_entropy_with_logits(logit, fires.clamp(min=0), reduction="none")
    here = (fires == 1).float()
    count = here.sum().clamp(min=1)
    firing = (each * wrong**2 * (fires >= 0)).sum() / count
    error = (found[:, 1:5] - sides).abs().mean(1) + 2 * (found[:, 5:] - points).abs().mean(1)
    return firing + (error * here).sum() / count


def export_detector(network: Detector, note: str) -> bytes:
    """Exports the network with SCRFD's interface: ``1 3 h w`` to scores ``n 1``, boxes ``n 4``, keypoints ``n 10`` on
    each grid."""
    graph = Graph(note)
    at = graph("AveragePool", "picture", kernel_shape=[BLOCK] * 2, strides=[BLOCK] * 2)
    for layer, (_, _, kernel, stride, dilation) in zip(network.layers, LAYERS, strict=True):
        at = _convolution(graph, at, layer, kernel, stride, dilation)
        at = graph("Relu", at)
    found = _convolution(graph, at, network.head, 1, 1, 1)
    score, box, points = graph("Split", found, graph.constant((1, 4, 10), np.int64), axis=1, outputs=3)
    parts = {"score": graph("Sigmoid", score), "box": box, "points": points}
    outputs: dict[str, list] = {}
    for kind, width in (("score", 1), ("box", 4), ("points", 10)):
        for stride in STRIDES:
            if stride < STRIDE:
                cells = graph("AveragePool", "picture", kernel_shape=[stride] * 2, strides=[stride] * 2)
                both = graph("Conv", cells, graph.constant(np.zeros((ANCHORS * width, 3, 1, 1))))
            else:
                both = graph("Concat", parts[kind], graph("Mul", parts[kind], graph.constant(0)), axis=1)
            rows = graph("Transpose", both, perm=[0, 2, 3, 1])  # cells in reading order, anchors together
            outputs[graph("Reshape", rows, graph.constant((-1, width), np.int64))] = [f"n{stride}", width]
    return graph.serialised([1, 3, "height", "width"], outputs)


def _convolution(graph: Graph, at: str, layer: nn.Conv2d, kernel: int, stride: int, dilation: int) -> str:
    weight, bias = (graph.weights(part.detach().cpu().numpy()) for part in (layer.weight, layer.bias))
    pads = [(kernel // 2) * dilation] * 4
    return graph("Conv", at, weight, bias, pads=pads, strides=[stride] * 2, dilations=[dilation] * 2)
