"""Thumbnails: one for each workflow, each another picture, small and square as the template browser shows them."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.workflows.thumbnails import ALL, APPS, DARK, SIDE, grid

FOLDER = Path(__file__).parents[2] / "workflows"
COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)]


def test_every_workflow_has_one():
    apps = {app for names in APPS.values() for app in names}
    assert ALL.keys() | apps == {path.stem for path in FOLDER.glob("*.json")} and not ALL.keys() & apps


@pytest.mark.parametrize(("name", "apps"), APPS.items())
def test_an_app_has_the_picture_of_its_workflow(name, apps):
    assert all((FOLDER / f"{app}.jpg").read_bytes() == (FOLDER / f"{name}.jpg").read_bytes() for app in apps)


@pytest.mark.parametrize("name", ALL)
def test_it_is_small_and_square(name):
    path = FOLDER / f"{name}.jpg"
    assert path.stat().st_size < 60_000
    with Image.open(path) as picture:
        assert picture.format == "JPEG" and picture.size == (SIDE, SIDE)


def test_each_is_another_picture():
    small = {name: np.asarray(Image.open(FOLDER / f"{name}.jpg").resize((12, 12))).astype(float) for name in ALL}
    for one, other in combinations(small, 2):
        assert np.abs(small[one] - small[other]).mean() > 20, f"{one} looks like {other}"


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (4, 2), (3, 3)])
def test_a_grid_shows_every_frame_and_stretches_none(count, columns):
    frames = [Image.new("RGB", (90, 60), colour) for colour in COLOURS[:count]]
    sheet = grid(frames, columns)
    found = dict((colour, n) for n, colour in sheet.getcolors(maxcolors=1_000_000))
    assert found.keys() - {DARK} == set(COLOURS[:count])
    assert sheet.size == (SIDE, SIDE) and found.get(DARK, 0) < SIDE * SIDE / 20
