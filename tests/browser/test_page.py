"""ComfyUI's own page opens every workflow without a fault, and makes of it what the other tests execute."""

from __future__ import annotations

import json

import pytest

from tools.workflows import blocks, films
from tools.workflows.drawing import fixed_id

from .conftest import BLUEPRINTS, VIEWPORT, WORKFLOWS, write

pytestmark = pytest.mark.browser
DRAWINGS = {drawing.name: drawing for drawing in (film() for film in films.ALL)}
WINDOW = {"width": 1600, "height": 900}
SMALLEST = 0.6  # of the canvas, at which the page still writes a node's values

# What a person links to a shipped block, and the slots.
GIVEN = [["Hallo3Portrait", "image", "image"], ["Hallo3Voice", "audio", "audio"]]
TAKEN = {blocks.WHOLE: ["film", "SaveVideo", "video"], blocks.READ: ["marked", "PreviewImage", "images"]}


@pytest.fixture(params=DRAWINGS)
def name(request):
    return request.param


def saved(name: str) -> dict:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def on_the_canvas(name: str) -> dict:
    """A workflow as the canvas shows it, also that of an app."""
    workflow = saved(name)
    workflow["extra"].pop("linearMode", None)
    return workflow


def draw(page, drawing, declared) -> dict:
    """A workflow as the page saves it."""
    return with_fixed_ids(page.call("draw", drawing.layout(declared)))


def with_fixed_ids(drawn: dict) -> dict:
    """The workflow with ids derived from names, instead of the page's random ones, for the blocks' sockets."""
    text = json.dumps(drawn)
    for inside in drawn.get("definitions", {}).get("subgraphs", []):
        for kind in ("inputs", "outputs"):
            for socket in inside[kind]:
                text = text.replace(socket["id"], fixed_id(f"{inside['name']}/{kind}/{socket['name']}"))
    return json.loads(text)


def test_the_files_are_as_drawn(page, name, declared, request):
    """A change of the drawing or of a node's inputs reaches the files by `./dev browser --redraw`."""
    redraw = request.config.getoption("redraw")
    if page.settings["Comfy.VueNodes.Enabled"]:
        pytest.skip("drawn once, on the canvas")
    page.call("open", draw(page, DRAWINGS[name], declared), name)
    drawn, prompt = page.call("save"), page.call("prompt")
    if redraw:
        write(WORKFLOWS / f"{name}.json", drawn)
        write(WORKFLOWS / "api" / f"{name}.json", prompt)
    assert saved(name) == drawn


def test_opens_without_a_fault(page, name):
    before = len(page.mistakes)
    page.call("open", saved(name), name)
    assert page.call("faults", saved(name)) == []
    assert page.mistakes[before:] == []


def test_no_link_runs_behind_a_node(page, name):
    """It would look like a link of that node."""
    if page.settings["Comfy.VueNodes.Enabled"]:
        pytest.skip("seen once, on the canvas")
    page.call("open", on_the_canvas(name), name)
    assert page.call("hidden") == []


def test_is_run_as_the_tests_run_it(page, name):
    page.call("open", saved(name), name)
    expected = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    assert page.call("prompt") == expected


@pytest.mark.parametrize("block", blocks.SHIPPED)
def test_a_block_is_offered_and_runs_as_the_tests_run_it(page, declared, block, request):
    path, prompt = BLUEPRINTS / f"{block}.json", WORKFLOWS / "api" / f"block_{blocks.SHIPPED[block].__name__}.json"
    redraw = request.config.getoption("redraw") and not page.settings["Comfy.VueNodes.Enabled"]
    if redraw:
        write(path, draw(page, films.alone(block), declared))
    else:
        assert sorted(page.call("blueprints")) == sorted(blocks.SHIPPED)
    before = len(page.mistakes)
    page.call("open", json.loads(path.read_text(encoding="utf-8")), block)
    page.call("feed", fixed_id(block), GIVEN, TAKEN[block])
    found = page.call("prompt")
    if redraw:
        write(prompt, found)
    assert json.loads(prompt.read_text(encoding="utf-8")) == found
    assert page.mistakes[before:] == []


def test_all_of_it_is_legible_at_once(page, name):
    """Fit to view in a small window: below this scale the canvas shows blank boxes."""
    page.page.set_viewport_size(WINDOW)
    try:
        page.call("open", on_the_canvas(name), name)
        assert page.call("fitted") >= SMALLEST
    finally:
        page.page.set_viewport_size(VIEWPORT)
