"""Node declarations for the page: ours from the classes, ComfyUI's own as recorded from a running host."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .stages import RELEASE

CORE = Path(__file__).with_name("core_nodes.json")


def put_release(models: Path, source: Path) -> None:
    """Copies the toy release to the name that the workflows use, with an empty file as the vocal separation model."""
    folder = shutil.copytree(source, models / RELEASE, dirs_exist_ok=True)
    (folder / "audio_separator").mkdir(exist_ok=True)
    (folder / "audio_separator" / "Kim_Vocal_2.onnx").touch()


def declarations(nodes: Mapping[str, type], titles: Mapping[str, str]) -> dict[str, Any]:
    """Node declarations in the format of /object_info."""
    return json.loads(CORE.read_text()) | {key: _entry(key, node, titles[key]) for key, node in nodes.items()}


def _entry(key: str, node: type, title: str) -> dict[str, Any]:
    inputs = node.INPUT_TYPES()
    return {
        "input": inputs,
        "input_order": {group: list(entries) for group, entries in inputs.items()},
        "output": list(node.RETURN_TYPES),
        "output_is_list": [False] * len(node.RETURN_TYPES),
        "output_name": list(node.RETURN_NAMES),
        "output_tooltips": list(node.OUTPUT_TOOLTIPS),
        "name": key,
        "display_name": title,
        "description": node.DESCRIPTION,
        "category": node.CATEGORY,
        "output_node": getattr(node, "OUTPUT_NODE", False),
        "python_module": "custom_nodes.ComfyUI-Hallo3",
    }
