"""Untrained toy face models under the official names, to try the program without the real ones.

The detector does not know faces: it finds reddish blobs on a cooler background, such as a drawn head and many
photographed ones. The recogniser is a fixed random projection: different pictures get different, meaningless
embeddings.

Both have the interface of the real models (SCRFD and ArcFace), so that InsightFace's own loader accepts them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..inputs.face import DETECTOR, EMBEDDING, RECOGNISER, TOY_MARK
from .onnx_graph import Graph

NOTE = f"{TOY_MARK}: honest noise, for trying the program only"
CELL = 32  # pixels: the coarsest of SCRFD's three grids, the only one used here
STRIDES = (8, 16, 32)
ANCHORS = 2  # per grid point, as in SCRFD; the second one never fires
WIDTHS = (3, 5, 7, 9, 11)  # of boxes, in cells; each is two cells taller than wide
SIDE = 27  # of the kernel, in cells: covers the largest box and its surroundings
# Redness below FAINT counts as 0 and above FULL as 1 (2 is the whole range of a channel). A blob fires if its redness
# exceeds that of its surroundings by THRESHOLD. Fitted to drawn heads and two photographs.
FAINT, FULL, THRESHOLD = 0.06, 0.22, 0.35


def write_tiny_face(folder: str | Path, seed: int = 0) -> tuple[Path, Path]:
    """Writes the toy detector and recogniser into a folder, created if missing; returns their paths.

    The same seed writes the same bytes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    detector, recogniser = folder / DETECTOR, folder / RECOGNISER
    detector.write_bytes(_detector())
    recogniser.write_bytes(_recogniser(seed))
    return detector, recogniser


def _detector() -> bytes:
    """SCRFD's interface: ``1 3 h w`` to scores ``n 1``, boxes ``n 4``, keypoints ``n 10`` on each of three grids."""
    graph = Graph(NOTE)
    score, half_width, half_height = _blobs(graph, _redness(graph, "picture"))
    outputs: dict[str, list] = {}
    columns = {"score": 1, "box": 4, "points": 10}
    for kind, width in columns.items():
        for stride in STRIDES:
            if stride < CELL:  # these grids never fire
                cells = graph("AveragePool", "picture", kernel_shape=[stride] * 2, strides=[stride] * 2)
                parts = graph("Conv", cells, graph.constant(np.zeros((ANCHORS * width, 3, 1, 1))))
            elif kind == "score":
                parts = graph("Concat", score, graph("Mul", score, graph.constant(0)), axis=1)
            else:
                parts = graph("Concat", *_distances(graph, kind, half_width, half_height) * ANCHORS, axis=1)
            rows = graph("Transpose", parts, perm=[0, 2, 3, 1])  # grid points in reading order, anchors together
            name = graph("Reshape", rows, graph.constant((-1, width), np.int64))
            outputs[name] = [f"n{stride}", width]
    return graph.serialised([1, 3, "height", "width"], outputs)


def _redness(graph: Graph, picture: str) -> str:
    """How much a cell looks like skin: ``1 3 h w`` in -1..1 to ``1 1 h/32 w/32`` in 0..1.

    Skin is redder than green, and green and blue differ little: R - G - |G - B| / 2. For grey it is 0. A pixel's
    redness is capped, so that the strong colours of noise do not add up to a blob.
    """
    contrasts = graph.constant(np.array([[1, -1, 0], [0, 1, -1]]).reshape(2, 3, 1, 1))
    red, yellow = graph("Split", graph("Conv", picture, contrasts), axis=1, outputs=2)
    skin = graph("Sub", red, graph("Mul", graph("Abs", yellow), graph.constant(0.5)))
    scaled = graph("Div", graph("Sub", skin, graph.constant(FAINT)), graph.constant(FULL - FAINT))
    pixels = graph("Clip", scaled, graph.constant(0), graph.constant(1))
    return graph("AveragePool", pixels, kernel_shape=[CELL] * 2, strides=[CELL] * 2)


def _blobs(graph: Graph, redness: str) -> tuple[str, str, str]:
    """Score and half size (in cells) of the blob around each cell: three of ``1 1 h w``.

    A box scores by how much its redness exceeds that of the reddest of its left, right and upper sides, so that a
    uniform area, a band or an edge is not a blob; there can be a neck below. The best size wins, and only cells that
    are local maxima count.
    """
    kernels = np.stack([kernel for width in WIDTHS for kernel in _kernels(width)])
    order = np.arange(len(kernels)).reshape(len(WIDTHS), 4).T.reshape(-1)  # all boxes, then all left sides, ...
    margin = SIDE // 2
    padded = graph("Pad", redness, graph.constant([0, 0, margin, margin] * 2, np.int64), mode="edge")
    means = graph("Conv", padded, graph.constant(kernels[order][:, None]))
    inside, *sides = graph("Split", means, axis=1, outputs=4)
    contrast = graph("Sub", inside, graph("Max", *sides))
    best = graph("ReduceMax", contrast, axes=[1], keepdims=1)
    won = graph("Cast", graph("Equal", contrast, best), to=1)
    near = graph("MaxPool", best, kernel_shape=[9, 9], pads=[4] * 4)
    peak = graph("Cast", graph("Equal", best, near), to=1)
    certainty = graph("Sigmoid", graph("Mul", graph("Sub", best, graph.constant(THRESHOLD)), graph.constant(12)))
    axes = graph.constant([1], np.int64)
    winners = graph("ReduceSum", won, axes, keepdims=1)
    half = []
    for sizes in (np.array(WIDTHS) / 2, np.array(WIDTHS) / 2 + 1):
        total = graph("ReduceSum", graph("Mul", won, graph.constant(sizes.reshape(1, -1, 1, 1))), axes, keepdims=1)
        half.append(graph("Div", total, winners))
    return graph("Mul", certainty, peak), half[0], half[1]


def _kernels(width: int) -> list[np.ndarray]:
    """Kernels that average a box in the middle, and the areas to its left, right and top."""
    thick = (width + 2) // 3
    left, top = (SIDE - width) // 2, (SIDE - width - 2) // 2
    right, bottom = left + width, top + width + 2
    rows, columns = slice(top, bottom), slice(left, right)
    areas = (
        (rows, columns),
        (rows, slice(left - thick, left)),
        (rows, slice(right, right + thick)),
        (slice(top - thick, top), columns),
    )
    kernels = []
    for area in areas:
        kernel = np.zeros((SIDE, SIDE))
        kernel[area] = 1 / kernel[area].size
        kernels.append(kernel)
    return kernels


def _distances(graph: Graph, kind: str, half_width: str, half_height: str) -> list[str]:
    """Box sides or five keypoints (eyes, nose, corners of the mouth) in SCRFD's format.

    In cells from the upper left corner of the cell, whose middle the box is centred on; sides are positive outwards.
    """
    if kind == "box":
        ends = ((half_width, 1, -0.5), (half_height, 1, -0.5), (half_width, 1, 0.5), (half_height, 1, 0.5))
    else:
        face = ((-0.4, -0.2), (0.4, -0.2), (0, 0.15), (-0.3, 0.5), (0.3, 0.5))
        ends = [(half, part, 0.5) for x, y in face for half, part in ((half_width, x), (half_height, y))]
    return [
        graph("Add", graph("Mul", half, graph.constant(part)), graph.constant(middle)) for half, part, middle in ends
    ]


def _recogniser(seed: int) -> bytes:
    """ArcFace's interface: ``n 3 112 112`` to ``n d``, d = 512, with a norm of about 20, as in real embeddings."""
    graph = Graph(NOTE)
    pooled = graph("AveragePool", "picture", kernel_shape=[16, 16], strides=[16, 16])
    pixels = graph("Reshape", pooled, graph.constant((-1, 3 * 7 * 7), np.int64))
    contrast = graph("Sub", pixels, graph("ReduceMean", pixels, axes=[1], keepdims=1))
    strength = graph("Add", graph("ReduceL2", contrast, axes=[1], keepdims=1), graph.constant(1e-3))
    projection = np.random.default_rng(seed).normal(0, 20 / EMBEDDING**0.5, (3 * 7 * 7, EMBEDDING))
    embedding = graph("MatMul", graph("Div", contrast, strength), graph.constant(projection))
    return graph.serialised(["n", 3, 112, 112], {embedding: ["n", EMBEDDING]})
