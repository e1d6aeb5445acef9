"""Training data of the face models: people in many poses and scenes, with their boxes and keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..world.drawing import draw_frames, face_boxes, face_points
from ..world.films import contrasting_scene
from ..world.people import draw_person

POSES = 2  # per scene
SCENES = 2  # per person


class Drawings(NamedTuple):
    """Pictures of people, grouped by person."""

    pictures: Tensor  # ``n v 3 h w``, uint8: n people in v pictures
    boxes: Tensor  # ``n v 4``, pixels
    points: Tensor  # ``n v 5 2``, pixels


def draw_people(seeds: Sequence[int], show_progress: bool = True) -> Drawings:
    """Draws each seed's person in `POSES` poses in front of each of `SCENES` scenes, speaking, sometimes blinking."""
    people = []
    for seed in tqdm(seeds, desc="drawing", unit="person", disable=not show_progress):
        person, rng = draw_person(seed), np.random.default_rng([seed, 7])
        views = []
        for number in range(SCENES):
            scene = contrasting_scene(person, seed + number * 1_000_000_000)
            head = (rng.uniform(-1, 1, (POSES, 5)) * (0.03, 0.015, 0.7, 0.6, 0.08)).astype(np.float32)
            mouth = rng.uniform(0, 1, (POSES, 2)).astype(np.float32)
            mouth[rng.random(POSES) < 0.25, 0] = 0
            blink = (rng.random(POSES) < 0.15).astype(np.float32)
            frames = draw_frames(person, scene, mouth, head, blink)
            views.append(((frames * 255 + 0.5).astype(np.uint8), face_boxes(person, head), face_points(person, head)))
        people.append([np.concatenate(parts) for parts in zip(*views, strict=True)])
    pictures, boxes, points = (torch.from_numpy(np.stack(parts)) for parts in zip(*people, strict=True))
    return Drawings(pictures.permute(0, 1, 4, 2, 3).contiguous(), boxes, points)


def degrade(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Degrades pictures ``n 3 h w`` in 0..1 as a VAE and a codec do: random blur, noise and change of brightness."""
    n = len(pictures)
    draw = torch.rand(3, n, 1, 1, 1, generator=generator).to(pictures.device)
    soft = F.avg_pool2d(F.pad(pictures, (1,) * 4, mode="replicate"), 3, stride=1)
    pictures = torch.lerp(pictures, soft, draw[0])
    noise = torch.randn(pictures.shape, generator=generator).to(pictures.device)
    return (pictures * (0.92 + 0.16 * draw[1]) + 0.04 * draw[2] * noise).clamp(0, 1)
