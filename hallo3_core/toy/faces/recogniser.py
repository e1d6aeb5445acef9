"""The recogniser: maps an aligned face to an embedding in which one person's pictures are close; ArcFace's interface.

InsightFace rotates and scales a picture so that the keypoints match `TEMPLATE`, crops 112 x 112 pixels, and passes them
in -1..1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...inputs.face import EMBEDDING
from ..onnx_graph import Graph

SIDE, BLOCK = 112, 4  # pixels of an aligned face, and of the blocks that the input is averaged in
NORM = 20.0  # of an embedding, about that of real ones
TEMPERATURE = 0.1
# Eyes, nose and corners of the mouth in an aligned face, pixels: ArcFace's published alignment.
TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
LAYERS = ((3, 24, 1), (24, 32, 2), (32, 48, 2), (48, 12, 1))  # channels in and out, stride
INNER = 64


class Recogniser(nn.Module):
    """Aligned faces to embeddings.

    forward: block averages ``n 3 28 28`` in -1..1 to ``n 512`` of norm `NORM`.
    """

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, stride, padding=1) for a, b, stride in LAYERS)
        self.inner = nn.Linear(LAYERS[-1][1] * 49, INNER)
        self.outer = nn.Linear(INNER, EMBEDDING, bias=False)
        for layer in (*self.layers, self.inner):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.orthogonal_(self.outer.weight)

    def forward(self, faces: Tensor) -> Tensor:
        for layer in self.layers:
            faces = F.relu(layer(faces))
        return NORM * F.normalize(self.outer(self.inner(faces.flatten(1))), dim=-1)


def align(pictures: Tensor, points: Tensor) -> Tensor:
    """Aligns faces in pictures ``n 3 h w`` in 0..1, by keypoints ``n 5 2`` in pixels, to ``n 3 28 28`` in -1..1.

    Rotation, scale and shift are a least-squares fit, as in InsightFace.
    """
    height, width = pictures.shape[-2:]
    goal = torch.tensor(TEMPLATE, dtype=torch.float32, device=points.device)
    goal = torch.complex(goal[:, 0], goal[:, 1])
    here = torch.complex(points[..., 0].float(), points[..., 1].float())
    centred, goal_centred = here - here.mean(1, keepdim=True), goal - goal.mean()
    turn = (centred * goal_centred.conj()).sum(1, keepdim=True) / (goal_centred.abs() ** 2).sum()  # goal to picture
    samples = SIDE // 2  # two per block and direction, then averaged
    at = (torch.arange(samples, dtype=torch.float32, device=points.device) + 0.5) * 2 - 0.5
    places = torch.complex(at[None].expand(samples, -1), at[:, None].expand(-1, samples)).reshape(1, -1)
    places = turn * (places - goal.mean()) + here.mean(1, keepdim=True)
    grid = torch.stack([(2 * places.real + 1) / width - 1, (2 * places.imag + 1) / height - 1], -1)
    grid = grid.view(len(pictures), samples, samples, 2)
    return F.avg_pool2d(F.grid_sample(pictures, grid, align_corners=False), 2) * 2 - 1


def loss(one: Tensor, other: Tensor) -> Tensor:
    """Cross-entropy of matching n people's embeddings in two pictures, ``n 512`` each, among the n people."""
    likeness = F.normalize(one, dim=-1) @ F.normalize(other, dim=-1).T / TEMPERATURE
    people = torch.arange(len(one), device=one.device)
    return (F.cross_entropy(likeness, people) + F.cross_entropy(likeness.T, people)) / 2


def export_recogniser(network: Recogniser, note: str) -> bytes:
    """Exports the network with ArcFace's interface: ``n 3 112 112`` to ``n 512``."""
    graph = Graph(note)
    at = graph("AveragePool", "picture", kernel_shape=[BLOCK] * 2, strides=[BLOCK] * 2)
    for layer, (_, _, stride) in zip(network.layers, LAYERS, strict=True):
        weight, bias = (graph.weights(part.detach().cpu().numpy()) for part in (layer.weight, layer.bias))
        at = graph("Relu", graph("Conv", at, weight, bias, pads=[1] * 4, strides=[stride] * 2))
    at = graph("Flatten", at, axis=1)
    weight, bias = (graph.weights(part.detach().cpu().numpy()) for part in (network.inner.weight.T, network.inner.bias))
    at = graph("Add", graph("MatMul", at, weight), bias)
    at = graph("MatMul", at, graph.weights(network.outer.weight.detach().cpu().numpy().T))
    length = graph("Max", graph("ReduceL2", at, axes=[1], keepdims=1), graph.constant(1e-6))
    embedding = graph("Mul", graph("Div", at, length), graph.constant(NORM))
    return graph.serialised(["n", 3, SIDE, SIDE], {embedding: ["n", EMBEDDING]})
