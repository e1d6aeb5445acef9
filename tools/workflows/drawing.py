"""A workflow as one writes it down: nodes with their values and links, in columns, in stages. Positions are computed.

The page makes the workflow of it (`tests/browser`), so that files are what ComfyUI itself saves.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TITLE, GAP, PADDING = 30, 34, 24  # of a node and of a stage, in the canvas's pixels
STAGE_TITLE, STAGE_GAP, LANE = 44, 60, 30
TALL = {
    "LoadImage": 330,
    "LoadAudio": 136,
    "CLIPTextEncode": 200,
    "SaveVideo": 420,
    "PreviewAudio": 96,
    "PreviewImage": 320,
}
FIELDS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
SPEAKING = {"Hallo3AudioEncode", "Hallo3FaceEmbed", "Hallo3SampleClip", "Hallo3LongVideo", "Hallo3GuidanceGrid"}
LINE = 66  # what a node grows by when it has told its result
BYPASSED = 4  # the page's number for it


@dataclass(frozen=True)
class Output:
    """One output of a node, to be an input of another."""

    node: Node
    name: str


@dataclass(eq=False)
class Dot:
    """A point that links from an output pass on their way, so that they run beside nodes and not behind them."""

    source: Output | Dot
    drop: int = 0
    width = 0


@dataclass(eq=False)
class Node:
    """A node: `inputs` hold what is linked (`Output`) and what its widgets show, by name."""

    kind: str
    inputs: dict[str, Any] = field(default_factory=dict)
    width: int = 280
    height: int | None = None  # None: what its slots and widgets need
    title: str | None = None
    models: Sequence[Mapping[str, str]] = ()
    colour: str | None = None
    bypassed: bool = False
    drop: int = 0  # left free above it

    def __getitem__(self, output: str) -> Output:
        return Output(self, output)

    def room(self, declared: Mapping[str, Any]) -> tuple[int, int]:
        """Its height, and what it takes at most in either of the two ways in which the page draws nodes."""
        if self.kind == "MarkdownNote" or self.height or self.kind in TALL:
            height = self.height or TALL.get(self.kind, 100)
            return height, height
        entry = declared[self.kind]
        sockets, widgets = 0, 0
        for _, (kind, *options) in inputs_of(entry).items():
            if isinstance(kind, list) or kind in FIELDS:
                widgets += 2 if (options and options[0].get("control_after_generate")) else 1
            else:
                sockets += 1
        slots = max(sockets, len(entry["output"]))
        told = LINE if self.kind in SPEAKING else 0
        return 14 + 20 * slots + 24 * widgets, 38 + 20 * slots + 28 * widgets + told


@dataclass(eq=False)
class Stage:
    """A group: columns of nodes from left to right under a title."""

    title: str
    columns: Sequence[Sequence[Node | Dot]]
    colour: str = "#3f789e"
    drop: int = 0


@dataclass(eq=False)
class Drawing:
    """A workflow: columns of stages, or of nodes and dots in none, from left to right."""

    name: str
    columns: Sequence[Sequence[Stage | Node | Dot]]

    def layout(self, declared: Mapping[str, Any]) -> dict[str, Any]:
        """What the page draws: nodes with ids and places, links, dots, groups. `declared`: the host's /object_info."""
        placed, groups, x = {}, [], 0
        for column in self.columns:
            y, width = 0, 0
            for part in column:
                if isinstance(part, Stage):
                    y += part.drop
                    found, size = _place_stage(part, x, y, declared)
                    groups.append({"title": part.title, "bounding": [x, y, *size], "color": part.colour})
                    below = STAGE_GAP
                else:
                    found, size = _place_column([part], x, y, declared)
                    below = GAP
                placed |= found
                width, y = max(width, size[0]), y + size[1] + below
            x += width + STAGE_GAP
        ids = {part: i for i, part in enumerate(placed, 1)}
        nodes = [node for node in placed if isinstance(node, Node)]
        links = [(node, name, value) for node in nodes for name, value in node.inputs.items() if _is_link(value)]
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, self.name)),
            "nodes": [_drawn(ids[node], node, *placed[node]) for node in nodes],
            "links": [_link(value, node, name, ids) for node, name, value in links],
            "dots": {ids[dot]: place for dot, (place, _) in placed.items() if isinstance(dot, Dot)},
            "groups": groups,
        }


def inputs_of(entry: Mapping[str, Any]) -> dict[str, Sequence]:
    """A node's inputs by name, in the canvas's order, from its entry in /object_info."""
    groups = entry["input"]
    return {**groups.get("required", {}), **groups.get("optional", {})}


def _place_stage(stage: Stage, x: int, y: int, declared) -> tuple[dict, tuple[int, int]]:
    placed, left, bottom = {}, x + PADDING, 0
    for column in stage.columns:
        found, (width, height) = _place_column(column, left, y + STAGE_TITLE, declared)
        placed |= found
        left += width + 2 * PADDING
        bottom = max(bottom, height)
    return placed, (left - PADDING - x, STAGE_TITLE + bottom + PADDING)


def _place_column(column: Sequence[Node | Dot], x: int, y: int, declared) -> tuple[dict, tuple[int, int]]:
    """Place and size of each, and the size of the column; its nodes are as wide as the widest."""
    placed, top, width = {}, y, max(part.width for part in column)
    for part in column:
        top += part.drop
        if isinstance(part, Dot):
            placed[part] = (x, top), (0, 0)
            top += LANE
        else:
            height, room = part.room(declared)
            placed[part] = (x, top + TITLE), (width, height)
            top += TITLE + room + GAP
    return placed, (width, top - GAP - y)


def _is_link(value: Any) -> bool:
    return isinstance(value, (Output, Dot))


def _link(value: Output | Dot, node: Node, name: str, ids: Mapping) -> list:
    """From node, its output, to node, its input, and the dots between."""
    dots = []
    while isinstance(value, Dot):
        dots.insert(0, ids[value])
        value = value.source
    return [ids[value.node], value.name, ids[node], name, dots]


def _drawn(number: int, node: Node, place, size) -> dict[str, Any]:
    return {
        "id": number,
        "type": node.kind,
        "title": node.title,
        "pos": place,
        "size": size,
        "mode": BYPASSED if node.bypassed else 0,
        "color": node.colour,
        "models": [dict(model) for model in node.models],
        "values": {name: value for name, value in node.inputs.items() if not _is_link(value)},
    }
