"""ComfyUI's own page opens every workflow without a fault, and makes of it what the other tests execute."""

from __future__ import annotations

import json

import pytest

from tests.workflows import films

from .conftest import WORKFLOWS, write

pytestmark = pytest.mark.browser
DRAWINGS = {drawing.name: drawing for drawing in (film() for film in films.ALL)}


@pytest.fixture(params=DRAWINGS)
def drawing(request):
    return DRAWINGS[request.param]


def saved(drawing) -> dict:
    return json.loads((WORKFLOWS / f"{drawing.name}.json").read_text(encoding="utf-8"))


def test_the_files_are_as_drawn(page, drawing, declared, request):
    """A change of the drawing or of a node's inputs reaches the files by `./dev browser --redraw`."""
    if page.settings["Comfy.VueNodes.Enabled"]:
        pytest.skip("drawn once, on the canvas")
    page.call("open", page.call("draw", drawing.layout(declared)), drawing.name)
    drawn, prompt = page.call("save"), page.call("prompt")
    if request.config.getoption("redraw"):
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
