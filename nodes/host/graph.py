"""The workflow that the host is running."""

from __future__ import annotations

from typing import Any, NamedTuple


class GraphNode(NamedTuple):
    """A node of the workflow; a linked input's value is `[node id, slot]`."""

    key: str
    inputs: dict[str, Any]


def running_nodes() -> list[GraphNode] | None:
    """The nodes that the running workflow's outputs depend on; None if no workflow runs or the host does not tell."""
    try:
        from comfy_execution.utils import get_executing_context
        from server import PromptServer

        own = get_executing_context().prompt_id
        running, _ = PromptServer.instance.prompt_queue.get_current_queue_volatile()
        (prompt, outputs), *_ = [(item[2], item[4]) for item in running if item[1] == own]
        return [GraphNode(node["class_type"], node["inputs"]) for node in _needed(prompt, outputs)]
    except (ImportError, AttributeError, LookupError, TypeError, ValueError):
        return None


def _needed(prompt: dict[str, dict], outputs: list[str]) -> list[dict]:
    found, waiting = {}, list(outputs)
    while waiting:
        identity = waiting.pop()
        if identity not in found:
            found[identity] = prompt[identity]
            links = prompt[identity]["inputs"].values()
            waiting += [str(link[0]) for link in links if isinstance(link, list) and len(link) == 2]
    return list(found.values())
