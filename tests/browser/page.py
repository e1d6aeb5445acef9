"""ComfyUI's own web page (PyPI: comfyui-frontend-package) in headless Chromium, with no ComfyUI behind it.

Every request of the page is answered here, from the package's files and a few facts; one that would leave for another
host is refused and counts as a mistake, as do errors in the page's console. Nothing can be run; the page loads
workflows, shows them, and makes of them what it would send to be run.
"""

from __future__ import annotations

import importlib.util
import json
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from playwright.sync_api import BrowserContext, Request, Route, WebSocketRoute

HOST = "http://localhost:8188"  # nothing listens there; a secure origin to the browser
ROOT = Path(__file__).parents[2]
SAMPLES = {".jpg": ROOT / "assets" / "portrait.jpg", ".flac": ROOT / "assets" / "speech.flac"}
SCRIPTS = {f"extensions/ComfyUI-Hallo3/{path.name}": path for path in sorted((ROOT / "web").glob("*.js"))}
OUR_SCRIPT = Path(__file__).with_name("canvas.js")
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "9.9.9",
    "Comfy.Release.Status": "skipped",
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.Persist": False,
    "Comfy.OnboardingCoachmarks.Seen": ["appMode"],
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
}
QUIET = {"exec_info": {"queue_remaining": 0}}
SYSTEM = {
    "os": "linux",
    "python_version": "3",
    "comfyui_version": "0.33.0",
    "pytorch_version": "2",
    "embedded_python": False,
    "argv": [],
    "ram_total": 1,
    "ram_free": 1,
}
FACTS = {
    "extensions": [f"/{path}" for path in SCRIPTS],
    "embeddings": [],
    "features": {},
    "queue": {"queue_running": [], "queue_pending": []},
    "history": {},
    "jobs": {"jobs": [], "pagination": {"offset": 0, "limit": 0, "total": 0, "has_more": False}},
    "users": {"storage": "server", "migrated": True},
    "i18n": {},
    "node_replacements": {},
    "experiment/models": [],
    "models": [],
    "internal/folder_paths": {},
    "userdata": [],
    "v2/userdata": [],
    "prompt": QUIET,
    "system_stats": {"system": SYSTEM, "devices": []},
    "workflow_templates": {},
}


def static_folder() -> Path:
    """Where the package keeps the page."""
    package = importlib.util.find_spec("comfyui_frontend_package").submodule_search_locations[0]
    return Path(package).resolve() / "static"


class ComfyPage:
    """The page, opened once for many workflows.

    declared: what /object_info tells; blueprints: subgraphs on offer, by name; new_nodes: the page's newer drawing of
    nodes (its setting Comfy.VueNodes.Enabled). `mistakes` grows by what goes wrong in the page.
    """

    def __init__(
        self,
        context: BrowserContext,
        declared: Mapping[str, Any],
        blueprints: Mapping[str, str] | None = None,
        *,
        new_nodes: bool = False,
    ):
        self.mistakes: list[str] = []
        self.settings = {**SETTINGS, "Comfy.VueNodes.Enabled": new_nodes}
        self.blueprints = {
            name: {"name": name, "info": {"node_pack": "Hallo3"}, "data": text, "source": "custom_node"}
            for name, text in (blueprints or {}).items()
        }
        listed = {name: {**entry, "data": ""} for name, entry in self.blueprints.items()}
        self.facts = {**FACTS, "object_info": declared, "settings": self.settings, "global_subgraphs": listed}
        self.static = static_folder()
        self.page = context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.mistakes.append(f"page: {error}"))
        self.page.route("**/*", self._answer)
        self.page.route_web_socket("**/*", self._socket)
        self.page.goto(HOST)
        self.page.wait_for_function(
            "types => window.app?.canvas && window.app.extensionManager && !document.querySelector('#splash-loader')"
            " && types.every((type) => window.LiteGraph?.registered_node_types[type])",
            arg=list(declared),
        )
        self.page.add_script_tag(content=OUR_SCRIPT.read_text())
        self.mistakes.clear()  # the page starts with a workflow of its own, whose models it looks for in vain

    def call(self, function: str, *arguments: Any) -> Any:
        """A function of canvas.js."""
        return self.page.evaluate(f"arguments => window.hallo3.{function}(...arguments)", list(arguments))

    def _heard(self, message) -> None:
        if message.type == "error" and "status of 404" not in message.text:
            self.mistakes.append(f"console: {message.text}")

    def _socket(self, socket: WebSocketRoute) -> None:
        socket.send(json.dumps({"type": "status", "data": {"status": QUIET, "sid": "none"}}))

    def _answer(self, route: Route, request: Request) -> None:
        if not request.url.startswith(HOST + "/"):
            self.mistakes.append(f"request that leaves: {request.method} {request.url}")
            return route.abort()
        path = unquote(urlsplit(request.url).path).removeprefix("/").removeprefix("api/")
        if request.method != "GET":
            return self._told(route, path, request)
        if path in self.facts:
            return route.fulfill(json=self.facts[path])
        if path == "view":
            name = parse_qs(urlsplit(request.url).query)["filename"][0].removesuffix(" [temp]")
            sample = SAMPLES[Path(name).suffix]
            return route.fulfill(path=sample, content_type=mimetypes.guess_type(sample)[0])
        if path in SCRIPTS:
            return route.fulfill(path=SCRIPTS[path], content_type="text/javascript")
        folder, _, name = path.partition("/")
        if folder == "settings":
            return route.fulfill(json=self.settings.get(name))
        if folder == "object_info":
            return route.fulfill(json={name: self.facts["object_info"][name]})
        if folder == "global_subgraphs" and name in self.blueprints:
            return route.fulfill(json=self.blueprints[name])
        if folder == "templates" and name.endswith(".json"):
            return route.fulfill(json=[])
        return self._file(route, path or "index.html")

    def _file(self, route: Route, path: str) -> None:
        file = (self.static / path).resolve()
        if file.is_relative_to(self.static) and file.is_file():
            kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            return route.fulfill(path=file, content_type=kind)
        return route.fulfill(status=404, body="")

    def _told(self, route: Route, path: str, request: Request) -> None:
        """The page saves its settings; it is not asked to save or to run anything else."""
        folder, _, name = path.partition("/")
        if folder == "settings" and request.method == "POST":
            self.settings.update({name: request.post_data_json} if name else request.post_data_json)
        return route.fulfill(json={})
