"""The page, once for each of its two ways to draw nodes. `./dev browser` runs these tests; `--redraw` also writes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.nodes.conftest import models, pack  # noqa: F401 (fixtures)
from tools.workflows.declarations import declarations, put_release

ROOT = Path(__file__).parents[2]
WORKFLOWS, BLUEPRINTS = ROOT / "workflows", ROOT / "subgraphs"
MODES = {False: "nodes on the canvas", True: "nodes in the document"}
VIEWPORT = {"width": 1800, "height": 1000}
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio")


def pytest_addoption(parser):
    parser.addoption("--redraw", action="store_true", help="write the workflows anew, as tools/workflows draws them")


@pytest.fixture(scope="session")
def declared(pack, models):  # noqa: F811
    put_release(models, models / "hallo3" / "tiny")
    return declarations(pack().NODE_CLASS_MAPPINGS, pack().NODE_DISPLAY_NAME_MAPPINGS)


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        pytest.fail("there is no Chromium: ./dev browser installs it, or CHROMIUM names one")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="session", params=MODES, ids=MODES.get)
def page(browser, declared, request):
    from tests.browser.page import ComfyPage

    blueprints = {path.stem: path.read_text() for path in sorted(BLUEPRINTS.glob("*.json"))}
    context = browser.new_context(viewport=VIEWPORT)
    context.set_default_timeout(0)  # a slow machine is no fault
    yield ComfyPage(context, declared, blueprints, new_nodes=request.param)
    context.close()


def write(path: Path, value) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
