"""Declarative workflows: nodes with values and links, in columns and stages. Positions are computed.

ComfyUI's page builds the workflow from this (`tests/browser`), so the files are what ComfyUI itself saves.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TITLE, GAP, PADDING = 30, 24, 18  # of nodes and stages, in canvas pixels
STAGE_TITLE, STAGE_GAP, LANE = 40, 24, 22
TALL = {
    "Hallo3Portrait": 330,
    "Hallo3Voice": 210,
    "RecordAudio": 120,
    "CLIPTextEncode": 150,
    "SaveVideo": 400,
    "PreviewAudio": 96,
    "PreviewImage": 320,
}
TEXT, SAYS = 100, 50  # heights of a text field in a block, and of what it says of the nodes inside
FIELDS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
SPEAKING = {
    *("Hallo3AudioEncode", "Hallo3FaceEmbed", "Hallo3Reference"),
    *("Hallo3SampleClip", "Hallo3LongVideo", "Hallo3GuidanceGrid"),
}
PREVIEWED = {"Hallo3SampleClip", "Hallo3LongVideo", "Hallo3GuidanceGrid", "SamplerCustomAdvanced"}
PICTURE = 100  # extra height of a latent preview, besides the picture's own height of two thirds of the node's width
LINE = 74  # extra height of a node that shows its result as text
# heights in a note: a text line, a list item, a table's row, a heading, and the margin around all
ROW, ITEM, CELL, HEADING, EDGE = 17, 24, 32, 50, 16
ITEM_OR_HEADING = re.compile(r"[*#-]+ |\d+\. |\|")
LINK = re.compile(r"\[([^]]*)\]\([^)]*\)")
LETTER = 4.6  # average width of a letter
LOST = 3  # letters of room lost at the end of a line, on average
BYPASSED = 4  # the page's value of a node's mode


@dataclass(frozen=True)
class Output:
    """One output of a node, to link to another node's input."""

    node: Node | Block
    name: str


@dataclass(eq=False)
class Dot:
    """A reroute point for an output's links, so that they run beside nodes and not behind them."""

    source: Output | Dot
    drop: int = 0
    at: int | None = None
    width = 0


@dataclass(eq=False)
class Node:
    """A node. `inputs` maps names to links (`Output`) and to the widgets' values."""

    kind: str
    inputs: dict[str, Any] = field(default_factory=dict)
    width: int = 280
    height: int | None = None  # None: as its slots and widgets need
    title: str | None = None
    models: Sequence[Mapping[str, str]] = ()
    colour: str | None = None
    bypassed: bool = False
    drop: int = 0  # free space above it
    at: int | None = None  # offset from the top of its column, instead of below the preceding node

    def __getitem__(self, output: str) -> Output:
        return Output(self, output)

    def room(self, declared: Mapping[str, Any]) -> tuple[int, int]:
        """Returns its height, and the most space it takes in either of the page's two node renderers."""
        if self.kind == "MarkdownNote" and not self.height:
            height = note_height(self.inputs["text"], self.width)
            return height, height
        if self.height or self.kind in TALL:
            height = self.height or TALL[self.kind]
            return height, height
        entry = declared[self.kind]
        sockets, widgets = 0, 0
        for _, spec in inputs_of(entry).items():
            if is_field(spec):
                widgets += 2 if (spec[1:] and spec[1].get("control_after_generate")) else 1
            else:
                sockets += 1
        slots = max(sockets, len(entry["output"]))
        told = LINE if self.kind in SPEAKING else 0
        told += 2 * self.width // 3 + PICTURE if self.kind in PREVIEWED else 0
        return 14 + 20 * slots + 24 * widgets, 38 + 20 * slots + 28 * widgets + told


@dataclass(eq=False)
class Inside:
    """What is inside a block, a subgraph: `takes` and `gives` are its inputs and outputs, by the names that it shows.

    An input may fill several slots inside. description: the block's help page; preview: whose picture it shows.
    """

    name: str
    description: str
    columns: Sequence[Sequence[Stage]]
    takes: Mapping[str, Sequence[tuple[Node, str]]]
    gives: Mapping[str, Output]
    preview: Node | None = None
    says: bool = True  # whether nodes inside say something, which the block shows too

    @property
    def id(self) -> str:
        return fixed_id(self.name)


@dataclass(eq=False)
class Block:
    """A node that stands for an `Inside`. `inputs` maps the names that it shows to links and to values."""

    inside: Inside
    inputs: dict[str, Any] = field(default_factory=dict)
    width: int = 300
    title: str | None = None
    colour: str | None = None
    height: int | None = None  # None: as its slots and widgets need
    drop: int = 0
    at: int | None = None
    bypassed = False
    models = ()

    @property
    def kind(self) -> str:
        return self.inside.id

    def __getitem__(self, output: str) -> Output:
        if output not in self.inside.gives:
            raise KeyError(f"{self.inside.name} gives no {output}")
        return Output(self, output)

    def room(self, declared: Mapping[str, Any]) -> tuple[int, int]:
        """As of a node."""
        if self.height:
            return self.height, self.height
        specs = [inputs_of(declared[node.kind])[slot] for (node, slot), *_ in self.inside.takes.values()]
        fields = [spec for spec in specs if is_field(spec)]
        texts = sum(bool(spec[1:]) and spec[1].get("multiline", False) for spec in fields)
        slots = max(len(specs) - len(fields), len(self.inside.gives))
        picture = 2 * self.width // 3 + PICTURE if self.inside.preview else 0
        plain = 20 * slots + (TEXT - 24) * texts
        return 14 + plain + 24 * len(fields), 38 + plain + 28 * len(fields) + SAYS * self.inside.says + picture


@dataclass(eq=False)
class Stage:
    """A group: columns of nodes from left to right under a title."""

    title: str
    columns: Sequence[Sequence[Node | Block | Dot]]
    colour: str = "#3f789e"
    drop: int = 0


@dataclass(eq=False)
class Drawing:
    """A workflow: columns of stages, or of nodes and dots outside a stage, from left to right.

    app: what App mode shows: nodes, their widgets' names and a line about each, and last the node with the result.
    """

    name: str
    columns: Sequence[Sequence[Stage | Node | Block | Dot]]
    app: Sequence[tuple[Node | Block, str, str]] = ()

    def layout(self, declared: Mapping[str, Any]) -> dict[str, Any]:
        """What the page draws: nodes with ids and positions, links, dots, groups. declared: the host's /object_info.

        Its `blocks` are the same of what is inside the blocks, with their inputs and outputs.
        """
        ids: dict[Node | Block | Dot, int] = {}
        drawn = _laid_out(self.columns, declared, ids)
        insides = dict.fromkeys(node.inside for node in list(ids) if isinstance(node, Block))
        blocks = [_inside(inside, declared, ids) for inside in insides]
        shown = [[ids[node], name, {"description": line} if line else {}] for node, name, line in self.app]
        return {"id": fixed_id(self.name), **drawn, "blocks": blocks, "app": shown}


def fixed_id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def _inside(inside: Inside, declared: Mapping[str, Any], ids: dict) -> dict[str, Any]:
    drawn = _laid_out(inside.columns, declared, ids)
    takes = [[name, [[ids[node], slot] for node, slot in slots]] for name, slots in inside.takes.items()]
    gives = [[name, ids[output.node], output.name] for name, output in inside.gives.items()]
    shown = inside.preview and ids[inside.preview]
    facts = {"id": inside.id, "name": inside.name, "description": unwrapped(inside.description)}
    return {**facts, **drawn, "takes": takes, "gives": gives, "preview": shown}


def _laid_out(columns: Sequence[Sequence], declared: Mapping[str, Any], ids: dict) -> dict[str, Any]:
    """Places parts, and gives them numbers that follow those in `ids`."""
    placed, groups, x = {}, [], 0
    for column in columns:
        y, width, own = 0, 0, []
        for part in column:
            if isinstance(part, Stage):
                y += part.drop
                found, size = _place_stage(part, x, y, declared)
                own.append({"title": part.title, "bounding": [x, y, *size], "color": part.colour})
                below = STAGE_GAP
            else:
                found, size = _place_column([part], x, y, declared)
                below = GAP
            placed |= found
            width, y = max(width, size[0]), y + size[1] + below
        for group in own:  # all stages of a column get the width of the widest
            group["bounding"][2] = width
        groups += own
        x += width + (STAGE_GAP if width else LANE)
    ids |= {part: i for i, part in enumerate(placed, len(ids) + 1)}
    nodes = [part for part in placed if not isinstance(part, Dot)]
    links = [(node, name, value) for node in nodes for name, value in node.inputs.items() if _is_link(value)]
    return {
        "nodes": [_drawn(ids[node], node, *placed[node]) for node in nodes],
        "links": [_link(value, node, name, ids) for node, name, value in links],
        "dots": {ids[dot]: place for dot, (place, _) in placed.items() if isinstance(dot, Dot)},
        "groups": groups,
    }


def note_height(text: str, width: int) -> int:
    """The height that a note needs to show all of its text."""
    height = EDGE
    for paragraph in unwrapped(text).split("\n\n"):
        for line in paragraph.split("\n"):
            is_item = not line.startswith("#") and ITEM_OR_HEADING.match(line)
            first = HEADING if line.startswith("#") else CELL if line.startswith("|") else ITEM if is_item else ROW
            room = int((width - (70 if is_item else 40)) / LETTER) - LOST
            words = LINK.sub(r"\1", line).replace("**", "")
            height += first + ROW * ((len(words) - 1) // room)
        height += 6
    return height


def unwrapped(text: str) -> str:
    """Markdown with a paragraph, list item or heading a line: the page loses a line break next to a bold word."""
    lines = [""]
    for line in text.strip().split("\n"):
        starts = not line or ITEM_OR_HEADING.match(line)
        if starts or not lines[-1] or lines[-1].startswith("#"):
            lines.append(line)
        else:
            lines[-1] += f" {line.strip()}"
    return "\n".join(lines).strip()


def inputs_of(entry: Mapping[str, Any]) -> dict[str, Sequence]:
    """A node's inputs by name, in the canvas's order, from its entry in /object_info."""
    groups = entry["input"]
    return {**groups.get("required", {}), **groups.get("optional", {})}


def is_field(spec: Sequence) -> bool:
    """Whether a node shows this input as a widget."""
    return isinstance(spec[0], list) or spec[0] in FIELDS


def _place_stage(stage: Stage, x: int, y: int, declared) -> tuple[dict, tuple[int, int]]:
    placed, left, bottom = {}, x + PADDING, 0
    for column in stage.columns:
        found, (width, height) = _place_column(column, left, y + STAGE_TITLE, declared)
        placed |= found
        left += width + (2 * PADDING if width else PADDING)
        bottom = max(bottom, height)
    return placed, (left - PADDING - x, STAGE_TITLE + bottom + PADDING)


def _place_column(column: Sequence[Node | Block | Dot], x: int, y: int, declared) -> tuple[dict, tuple[int, int]]:
    """Position and size of each part, and the size of the column. All nodes get the width of the widest."""
    placed, top, bottom, width = {}, y, y, max(part.width for part in column)
    for part in column:
        top = top + part.drop if part.at is None else y + part.at
        if isinstance(part, Dot):
            placed[part] = (x, top), (0, 0)
            bottom = max(bottom, top)
            top += LANE
        else:
            height, room = part.room(declared)
            placed[part] = (x, top + TITLE), (width, height)
            bottom = max(bottom, top + TITLE + room)
            top += TITLE + room + GAP
    return placed, (width, bottom - y)


def _is_link(value: Any) -> bool:
    return isinstance(value, (Output, Dot))


def _link(value: Output | Dot, node: Node | Block, name: str, ids: Mapping) -> list:
    """A link: source node, output, target node, input, and the dots between."""
    dots = []
    while isinstance(value, Dot):
        dots.insert(0, ids[value])
        value = value.source
    return [ids[value.node], value.name, ids[node], name, dots]


def _drawn(number: int, node: Node | Block, place, size) -> dict[str, Any]:
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
