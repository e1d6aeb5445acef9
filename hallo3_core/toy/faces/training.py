"""Trains the face models of the drawn world and writes them under the official names."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import torch
from torch import Tensor
from tqdm import trange

from ...inputs.face import DETECTOR, DRAWN_MARK, RECOGNISER
from ..world.films import TRAINING
from . import detector, recogniser
from .drawings import Drawings, degrade, draw_people

PEOPLE = TRAINING[600_000:601_000]
DETECTOR_STEPS, RECOGNISER_STEPS = 700, 600
DETECTOR_BATCH, RECOGNISER_BATCH = 24, 96
COPIES, CHUNK = 2, 128  # per face; pictures aligned at a time
RATE = 2e-3


def train_faces(
    folder: str | PathLike,
    device: str | torch.device = "cpu",
    seed: int = 0,
    people: range = PEOPLE,
    detector_steps: int = DETECTOR_STEPS,
    recogniser_steps: int = RECOGNISER_STEPS,
) -> tuple[Path, Path]:
    """Trains both models on drawn people and writes them into a folder; returns the files of detector and recogniser.

    On the CPU the same seed writes the same bytes with the same number of threads.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawings = draw_people(people)
    drawings = Drawings(*(part.to(device) for part in drawings))
    trained_detector = train_detector(drawings, detector_steps, seed)
    trained_recogniser = train_recogniser(drawings, recogniser_steps, seed)
    paths = folder / DETECTOR, folder / RECOGNISER
    paths[0].write_bytes(detector.export_detector(trained_detector, DRAWN_MARK))
    paths[1].write_bytes(recogniser.export_recogniser(trained_recogniser, DRAWN_MARK))
    return paths


def train_detector(drawings: Drawings, steps: int, seed: int) -> detector.Detector:
    """Trains a detector on the drawings at many sizes and positions, alone and in pairs."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = detector.Detector().to(drawings.pictures.device)
    for step, optimizer in _steps(network, steps, "detector"):
        squares, boxes, points = _scattered(drawings, generator)
        found = network(squares)
        error = detector.loss(found, *detector.targets(boxes, points))
        _descend(optimizer, error, step)
    return network


def train_recogniser(drawings: Drawings, steps: int, seed: int) -> recogniser.Recogniser:
    """Trains a recogniser to tell the people of a batch apart."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = recogniser.Recogniser().to(drawings.pictures.device)
    faces = _aligned(drawings, generator)
    people, views = faces.shape[:2]
    for step, optimizer in _steps(network, steps, "recogniser"):
        who = torch.randperm(people, generator=generator)[:RECOGNISER_BATCH]
        first = torch.randint(views, (len(who),), generator=generator)
        second = (first + torch.randint(1, views, (len(who),), generator=generator)) % views
        seen = torch.cat([faces[who, first], faces[who, second]])
        one, other = network(degrade((seen + 1) / 2, generator) * 2 - 1).chunk(2)
        _descend(optimizer, recogniser.loss(one, other), step)
    return network


def _steps(network: torch.nn.Module, steps: int, name: str):
    """Yields step numbers; the optimizer's rate decays to zero."""
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-2)
    progress = trange(steps, desc=name)
    for number in progress:
        rate = RATE * min(1.0, (number + 1) / 20) * min(1.0, 1.5 * (1 - number / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        yield progress, optimizer


def _descend(optimizer: torch.optim.Optimizer, error: Tensor, progress) -> None:
    optimizer.zero_grad()
    error.backward()
    torch.nn.utils.clip_grad_norm_([part for group in optimizer.param_groups for part in group["params"]], 1.0)
    optimizer.step()
    if progress.n % 20 == 0:
        progress.set_postfix(loss=f"{error.item():.3f}")


def _scattered(drawings: Drawings, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Detector inputs with one, two or no faces, and their boxes and points in pixels."""
    n, device = DETECTOR_BATCH, drawings.pictures.device
    people, views, _, height, width = drawings.pictures.shape
    who = torch.randint(people, (n, 2), generator=generator)
    view = torch.randint(views, (n, 2), generator=generator)
    pictures = drawings.pictures[who, view].float() / 255  # n 2 3 h w
    boxes, points = drawings.boxes[who, view].clone(), drawings.points[who, view].clone()
    empty = torch.rand(n, generator=generator) < 0.1
    pictures[empty] = pictures[empty].flip(-2)  # upside down does not count as a face
    boxes[empty] = 0
    pictures = torch.cat([pictures[:, 0], pictures[:, 1]], -1)  # side by side
    boxes[:, 1, ::2] += width * (boxes[:, 1, 2:3] > 0)
    points[:, 1, :, 0] += width
    alone = torch.rand(n, generator=generator) < 0.6
    pictures[alone, :, :, width:] = 0
    boxes[alone, 1] = 0
    # Scales from a picture that fills the square to a fifth of that, at any visible position.
    across = torch.where(alone, width, 2 * width)
    fit = detector.DETECTOR_SIZE / across
    scale = fit * (0.35 + 1.15 * torch.rand(n, generator=generator))
    room = torch.stack([across - detector.DETECTOR_SIZE / scale, height - detector.DETECTOR_SIZE / scale], 1)
    shift = torch.rand(n, 2, generator=generator)
    whole = torch.rand(n, generator=generator) < 0.5
    scale = torch.where(whole, fit, scale)
    corner = torch.where(whole[:, None], 0.0, shift * room).to(device)
    squares, times, start = detector.lay_out(pictures, scale.to(device), corner)
    squares = degrade((squares + 1) / 2, generator) * 2 - 1
    boxes = (boxes.view(n, 2, 2, 2) - start[:, None]) * times[:, None] * (boxes.view(n, 2, 2, 2).sum((2, 3), True) > 0)
    points = (points - start[:, None]) * times[:, None]
    return squares, boxes.view(n, 2, 4), points


def _aligned(drawings: Drawings, generator: torch.Generator) -> Tensor:
    """All faces aligned, `COPIES` times, ``n v 3 28 28``, by keypoints as imprecise as a detector's."""
    people, views = drawings.pictures.shape[:2]
    pictures, points = drawings.pictures.flatten(0, 1), drawings.points.flatten(0, 1)
    copies = []
    for _ in range(COPIES):
        slip = torch.randn(points.shape, generator=generator) * 0.5
        slip = slip + torch.randn(len(points), 1, 2, generator=generator) * 0.4
        moved = points + slip.to(points.device)
        pairs = zip(pictures.split(CHUNK), moved.split(CHUNK), strict=True)
        faces = [recogniser.align(part.float() / 255, places) for part, places in pairs]
        copies.append(torch.cat(faces).unflatten(0, (people, views)))
    return torch.cat(copies, 1)
