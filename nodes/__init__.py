"""The nodes: each module names its own in `NODES`, key -> (class, display name)."""

from __future__ import annotations

from . import audio, chaining, face, film, grid, loaders, reference, samples, sampling, vocals

MODULES = (loaders, audio, face, reference, sampling, chaining, film, grid, vocals, samples)


def mappings() -> tuple[dict[str, type], dict[str, str]]:
    """What the host asks a pack for: classes and display names by key."""
    nodes = {}
    for module in MODULES:
        nodes |= module.NODES
    return {key: node for key, (node, _) in nodes.items()}, {key: name for key, (_, name) in nodes.items()}
