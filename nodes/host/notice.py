"""Marks what is saved from a run of Hallo3 as AI-generated, also where core's nodes write the file.

Save Video, Save WEBM, Save Image and other packs' savers put a run's `extra_pnginfo` into the file's metadata. So the
notice is added there when a run is queued, which also holds for a run in which our nodes are cached.
"""

from __future__ import annotations

from typing import Any

from ...hallo3_core.film.writer import NOTICE

SAMPLING = {"Hallo3SampleClip", "Hallo3Guider", "Hallo3LongVideo", "Hallo3GuidanceGrid"}
KEY = "comment"  # the tag that players show


def register_notice() -> None:
    """Asks the host to call `marked` for each queued run. Does nothing without a server."""
    from server import PromptServer

    instance = getattr(PromptServer, "instance", None)
    if hasattr(instance, "add_on_prompt_handler"):
        instance.add_on_prompt_handler(marked)


def marked(request: dict[str, Any]) -> dict[str, Any]:
    """A request to queue a run, with the notice if the run samples with Hallo3. A comment that is there stays."""
    nodes = request.get("prompt")
    if not isinstance(nodes, dict):
        return request
    if not any(isinstance(node, dict) and node.get("class_type") in SAMPLING for node in nodes.values()):
        return request
    extra = request.get("extra_data") or {}
    tags = extra.get("extra_pnginfo") or {}
    text = tags.get(KEY)
    if not isinstance(text, str) or not text:
        text = NOTICE
    elif NOTICE not in text:
        text = f"{NOTICE}. {text}"
    return {**request, "extra_data": {**extra, "extra_pnginfo": {**tags, KEY: text}}}
