"""ComfyUI's own page opens every workflow without a fault, and makes of it what the other tests execute."""

from __future__ import annotations

import json
import uuid

import pytest

from tools.workflows import block, films

from .conftest import BLUEPRINTS, WORKFLOWS, write

pytestmark = pytest.mark.browser
DRAWINGS = {drawing.name: drawing for drawing in (film() for film in films.ALL)}
QUICK_START = "hallo3_quick_start"
BLOCK = (block.NAME, block.DESCRIPTION, block.OUTSIDE, block.FIELDS, block.PREVIEW)


@pytest.fixture(params=[QUICK_START, *DRAWINGS])
def name(request):
    return request.param


def saved(name: str) -> dict:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def draw(page, name: str, declared) -> dict:
    """A workflow as the page saves it."""
    if name != QUICK_START:
        return page.call("draw", DRAWINGS[name].layout(declared))
    places = films.quick_start()
    layout = films.long_video().layout(declared)
    links = [[*link[:4], []] for link in layout["links"]]  # nothing is in a wire's way here
    page.call("draw", {**layout, "id": places["id"], "links": links, "dots": {}})
    return with_fixed_ids(page.call("surround", *BLOCK, places, places["groups"]))


def with_fixed_ids(drawn: dict) -> dict:
    """The workflow with ids derived from names, instead of the page's random ones, for the block and its sockets."""
    subgraph = drawn["definitions"]["subgraphs"][0]
    random_ids = {subgraph["id"]: block.NAME}
    random_ids |= {
        s["id"]: f"{block.NAME}/{kind}/{s['name']}" for kind in ("inputs", "outputs") for s in subgraph[kind]
    }
    text = json.dumps(drawn)
    for random_id, name in random_ids.items():
        text = text.replace(random_id, str(uuid.uuid5(uuid.NAMESPACE_URL, name)))
    return json.loads(text)


def test_the_files_are_as_drawn(page, name, declared, request):
    """A change of the drawing or of a node's inputs reaches the files by `./dev browser --redraw`."""
    redraw = request.config.getoption("redraw")
    if page.settings["Comfy.VueNodes.Enabled"]:
        pytest.skip("drawn once, on the canvas")
    page.call("open", draw(page, name, declared), name)
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
    page.call("open", saved(name), name)
    assert page.call("hidden") == []


def test_is_run_as_the_tests_run_it(page, name):
    page.call("open", saved(name), name)
    expected = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    assert page.call("prompt") == expected


def test_the_block_is_offered_and_runs_as_the_tests_run_it(page, declared, request):
    """The block's ids are drawn by chance, so that its file is not compared: `--redraw` makes a new one."""
    path, prompt = BLUEPRINTS / f"{block.NAME}.json", WORKFLOWS / "api" / "block.json"
    redraw = request.config.getoption("redraw") and not page.settings["Comfy.VueNodes.Enabled"]
    if redraw:
        page.call("open", page.call("draw", films.long_video().layout(declared)), block.NAME)
        write(path, page.call("wrap", *BLOCK))
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
