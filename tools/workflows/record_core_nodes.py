"""Records the declarations of ComfyUI's core nodes that the workflows use, from a running host, in core_nodes.json.

    python tools/workflows/record_core_nodes.py http://127.0.0.1:8188

Names, types, ranges and choices are kept; tooltips are not. The input folder must hold the two sample inputs and
nothing else, since LoadImage and LoadAudio list its files.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
WORKFLOWS = HERE.parents[1] / "workflows"
PROSE = {"tooltip", "placeholder"}
KEPT = ("input", "input_order", "output", "output_is_list", "output_name", "name", "display_name", "category")


def without_prose(value):
    if isinstance(value, dict):
        return {key: without_prose(entry) for key, entry in value.items() if key not in PROSE}
    return [without_prose(entry) for entry in value] if isinstance(value, list) else value


def used() -> set[str]:
    """Types of all nodes in the workflows that are not ours."""
    kinds = set()
    for path in (WORKFLOWS / "api").glob("*.json"):
        kinds |= {node["class_type"] for node in json.loads(path.read_text()).values()}
    return {kind for kind in kinds if not kind.startswith("Hallo3")}


def main(url: str, *more: str) -> None:
    with urllib.request.urlopen(f"{url}/object_info") as reply:
        declared = json.load(reply)
    entries = {}
    for kind in sorted(used() | set(more)):
        entry = declared[kind]
        entries[kind] = {
            **{key: without_prose(entry[key]) for key in KEPT if key in entry},
            "output_node": entry["output_node"],
            "python_module": entry["python_module"],
            "description": "",
        }
    (HERE / "core_nodes.json").write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
