"""ComfyUI's own page opens every workflow without a fault, and makes of it what the other tests execute."""

from __future__ import annotations

import json

import pytest

from tools.workflows import block, films

from .conftest import BLUEPRINTS, WORKFLOWS, write

pytestmark = pytest.mark.browser
DRAWINGS = {drawing.name: drawing for drawing in (film() for film in films.ALL)}


@pytest.fixture(params=DRAWINGS)
def drawing(request):
    return DRAWINGS[request.param]


def saved(drawing) -> dict:
    return json.loads((WORKFLOWS / f"{drawing.name}.json").read_text(encoding="utf-8"))


def test_the_files_are_as_drawn(page, drawing, declared, request):
    """A change of the drawing or of a node's inputs reaches the files by `./dev browser --redraw`."""
    redraw = request.config.getoption("redraw")
    if page.settings["Comfy.VueNodes.Enabled"]:
        if redraw:
            page.call("open", saved(drawing), drawing.name)
            page.picture(WORKFLOWS / f"{drawing.name}.jpg")
        pytest.skip("drawn once, on the canvas")
    page.call("open", page.call("draw", drawing.layout(declared)), drawing.name)
    drawn, prompt = page.call("save"), page.call("prompt")
    if redraw:
        write(WORKFLOWS / f"{drawing.name}.json", drawn)
        write(WORKFLOWS / "api" / f"{drawing.name}.json", prompt)
    assert saved(drawing) == drawn


def test_opens_without_a_fault(page, drawing):
    before = len(page.mistakes)
    page.call("open", saved(drawing), drawing.name)
    assert page.call("faults", saved(drawing)) == []
    assert page.mistakes[before:] == []


def test_is_run_as_the_tests_run_it(page, drawing):
    page.call("open", saved(drawing), drawing.name)
    expected = json.loads((WORKFLOWS / "api" / f"{drawing.name}.json").read_text(encoding="utf-8"))
    assert page.call("prompt") == expected


def test_the_block_is_offered_and_runs_as_the_tests_run_it(page, declared, request):
    """The block's ids are drawn by chance, so that its file is not compared: `--redraw` makes a new one."""
    path, prompt = BLUEPRINTS / f"{block.NAME}.json", WORKFLOWS / "api" / "block.json"
    redraw = request.config.getoption("redraw") and not page.settings["Comfy.VueNodes.Enabled"]
    if redraw:
        page.call("open", page.call("draw", films.long_video().layout(declared)), block.NAME)
        write(path, page.call("wrap", block.NAME, block.DESCRIPTION, block.OUTSIDE, block.FIELDS))
    else:
        assert page.call("blueprints") == [block.NAME]
    before = len(page.mistakes)
    page.call("open", json.loads(path.read_text(encoding="utf-8")), block.NAME)
    page.call("feed", block.NAME, block.GIVERS, block.TAKER)
    found = page.call("prompt")
    if redraw:
        write(prompt, found)
    assert json.loads(prompt.read_text(encoding="utf-8")) == found
    assert page.mistakes[before:] == []
