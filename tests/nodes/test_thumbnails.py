"""Thumbnails show frames of the result."""

from __future__ import annotations

import pytest
from PIL import Image

from tools.workflows.thumbnails import SIZE, thumbnail

COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_frame_is_on_it_and_nothing_is_stretched(count):
    frames = [Image.new("RGB", (90, 60), colour) for colour in COLOURS[:count]]
    sheet = thumbnail(frames)
    assert sheet.size == SIZE
    found = {colour for _, colour in sheet.getcolors(maxcolors=1_000_000)}
    assert found >= set(COLOURS[:count])
    if count == 1:
        assert found == {COLOURS[0]}
    else:
        assert sheet.getpixel((10, 10)) == COLOURS[0] and sheet.getpixel((790, 10)) == COLOURS[1]


@pytest.mark.parametrize("count", [0, 5])
def test_too_few_or_too_many_are_refused(count):
    with pytest.raises(ValueError, match="give 1 to 4"):
        thumbnail([Image.new("RGB", (9, 6))] * count)
