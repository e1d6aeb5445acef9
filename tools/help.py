"""The nodes' help pages and translations, as far as the classes say it: inputs, defaults, costs, English words.

    python -m tools.help

writes the table of inputs in every page of `web/docs`, all of `locales/en`, and the blocks' tooltips in `locales/zh`.
The rest of the pages and the nodes in Chinese are written by hand.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .workflows import blocks

ROOT = Path(__file__).parents[1]
PAGES, LOCALES = ROOT / "web" / "docs", ROOT / "locales"

TABLE = re.compile(r"(?<=\n## Inputs\n\n)(?:\|.*\n)+")
COST = " Cost: "  # what follows it in a tooltip has a column of its own
FILE_OR_NAME = r"[A-Za-z][\w./-]*(?:[_/]|\.(?=[a-z]))[\w./-]*\w"
LARGEST_BOUND = 5000  # larger ones only guard against typing errors
MOST_CHOICES = 8


def inputs_of(node: type) -> dict[str, tuple[Any, dict]]:
    """A node's inputs by name, in the order of the canvas: kind and options."""
    groups = node.INPUT_TYPES()
    return {name: entry for group in ("required", "optional") for name, entry in groups.get(group, {}).items()}


def page(text: str, node: type) -> str:
    """A help page with the table of its inputs as the class declares them.

    Raises:
        ValueError: the page has no table below its heading "Inputs".
    """
    table = "\n".join(_table(node)) + "\n"
    text, found = TABLE.subn(lambda _: table, text)
    if found != 1:
        raise ValueError(f"{found} tables right below '## Inputs', expected one")
    return text


def english(nodes: Mapping[str, type], titles: Mapping[str, str], shown: Mapping[str, str]) -> dict[str, Any]:
    """The nodes' entries in nodeDefs.json. `shown`: the names of sockets that the page calls otherwise, by type."""
    return {key: _entry(node, titles[key], shown) for key, node in nodes.items()}


def written(language: str) -> dict[str, Any]:
    """A language's nodeDefs.json."""
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def of_nodes(words: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of nodes, without those of blocks."""
    return {key: entry for key, entry in words.items() if key.startswith("Hallo3")}


def _table(node: type) -> list[str]:
    rows = ["| input | meaning | default | cost |", "| --- | --- | --- | --- |"]
    required = node.INPUT_TYPES().get("required", {})
    for name, (kind, options) in inputs_of(node).items():
        meaning, _, cost = options["tooltip"].partition(COST)
        code = _code(kind)
        default = _default(kind, options, required=name in required)
        cells = (f"`{name}`", _cell(meaning, code), default, _cell(cost, code))
        rows.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return rows


def _code(kind: Any) -> re.Pattern:
    """What is set as code in a cell: names, files, and a dropdown's own choices."""
    choices = [] if isinstance(kind, str) else [each for each in kind if not each.isdigit()]
    longest_first = sorted(map(re.escape, choices), key=len, reverse=True)
    return re.compile("|".join((FILE_OR_NAME, *(rf"(?<![\w-]){each}(?![\w-])" for each in longest_first))))


def _cell(words: str, code: re.Pattern) -> str:
    return code.sub(r"`\g<0>`", words.removesuffix("."))


def _default(kind: Any, options: Mapping[str, Any], *, required: bool) -> str:
    """What an input has if nobody touches it, and what else it may have if that is short to say."""
    if not isinstance(kind, str):  # a dropdown; without a default it lists files
        if "default" not in options:
            return "`auto`" if "auto" in kind else "the first in the list"
        others = [str(each) for each in kind if each != options["default"]]
        return f"`{options['default']}`" + (f" (or {', '.join(others)})" if len(kind) <= MOST_CHOICES else "")
    if "default" not in options:
        return "required" if required else "not connected"
    if options["default"] == "":
        return "empty"
    value = f"`{options['default']:g}`" if isinstance(options["default"], float) else f"`{options['default']}`"
    if options.get("max", LARGEST_BOUND + 1) > LARGEST_BOUND:
        return value
    return f"{value} ({options['min']:g} to {options['max']:g})"


def _entry(node: type, title: str, shown: Mapping[str, str]) -> dict[str, Any]:
    outputs = zip(node.RETURN_TYPES, node.RETURN_NAMES, node.OUTPUT_TOOLTIPS, strict=True)
    return {
        "display_name": title,
        "description": node.DESCRIPTION,
        "inputs": {
            name: {"name": options.get("display_name", name), "tooltip": options["tooltip"]}
            for name, (_, options) in inputs_of(node).items()
        },
        "outputs": {
            str(i): {"name": shown.get(kind, name), "tooltip": tooltip}
            for i, (kind, name, tooltip) in enumerate(outputs)
        },
    }


def main() -> None:
    from tests.nodes import fake_host, importing

    with tempfile.TemporaryDirectory() as models:
        fake_host.install(models)
        pack = importing.import_pack(ROOT)
        nodes, shown = pack.NODE_CLASS_MAPPINGS, pack.nodes.types.SHOWN
        for key, node in nodes.items():
            path = PAGES / f"{key}.md"
            path.write_text(page(path.read_text(encoding="utf-8"), node), encoding="utf-8")
        words = {"en": english(nodes, pack.NODE_DISPLAY_NAME_MAPPINGS, shown), "zh": of_nodes(written("zh"))}
    for language, entries in words.items():
        text = json.dumps(entries | blocks.tooltips(entries), indent=2, ensure_ascii=False)
        (LOCALES / language / "nodeDefs.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
