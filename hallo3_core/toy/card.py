"""The data card of the trained toy release as Markdown: how each network was trained and how well it works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEAD = """# The toy release's weights

Small networks of Hallo3's structure, trained on a drawn world by `./dev toy-train`. Nobody real is seen or heard in
what they learnt from: people, voices and scenes are drawn and synthesised from seeds. They show what the program
does, and say nothing about the quality of the released weights. `python -m hallo3_core tiny FOLDER` writes them
out as a release.

Training videos have seeds from 0, held-out ones from 1,000,000: no person, voice, scene or sentence is in both.
"""
LICENCE = "The weights were made by this project from its own drawings and are under its licence."


def card(
    stages: Mapping[str, Mapping[str, Any]],
    packed: Mapping[str, Any],
    files: Mapping[str, tuple[int, str]],
    made_on: str,
) -> str:
    """Formats the card. `stages`: each stage's record (recipe, seconds, measured); `packed`: measurements of the packed
    weights; `files`: bytes and SHA-256 by name."""
    lines = [HEAD, f"Made on: {made_on}.", ""]
    for name, record in stages.items():
        lines += [f"## {name}", "", "| | |", "| --- | --- |"]
        lines += [f"| {key} | {_plain(value)} |" for key, value in record["recipe"].items()]
        lines.append(f"| seconds in all | {_plain(record.get('seconds'))} |")
        lines += [f"| measured: {key} | {_plain(value)} |" for key, value in (record.get("measured") or {}).items()]
        lines.append("")
    lines += ["## After packing as int8", "", "| | |", "| --- | --- |"]
    lines += [f"| {key} | {_plain(value)} |" for key, value in packed.items()]
    lines += ["", "## Files", "", "| file | bytes | SHA-256 |", "| --- | --- | --- |"]
    lines += [f"| {name} | {size:,} | `{digest}` |" for name, (size, digest) in files.items()]
    return "\n".join([*lines, "", LICENCE, ""])


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
