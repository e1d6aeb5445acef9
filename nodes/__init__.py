"""The nodes: each module names its own in `NODES`, key -> (class, display name)."""

from __future__ import annotations

from functools import wraps

from ..hallo3_core.errors import InputError
from . import audio, chaining, face, film, grid, loaders, reference, samples, sampling, vocals

MODULES = (loaders, audio, face, reference, sampling, chaining, film, grid, vocals, samples)

# The host heads its panel with the error's class under the name of its module, which for a pack is a path on the disk.
InputError.__module__ = "builtins"


def mappings() -> tuple[dict[str, type], dict[str, str]]:
    """What the host asks a pack for: classes and display names by key."""
    nodes = {}
    for module in MODULES:
        nodes |= module.NODES
    return {key: speaking(node) for key, (node, _) in nodes.items()}, {key: name for key, (_, name) in nodes.items()}


def speaking(node: type) -> type:
    """A node class whose warnings, and how it ended, stand on the node and not only in the log."""
    run = getattr(node, node.FUNCTION)

    @wraps(run)
    def execute(self, *args, **inputs):
        from .host import messages

        with messages.speaking(inputs.get("node_id")):
            return run(self, *args, **inputs)

    setattr(node, node.FUNCTION, execute)
    return node
