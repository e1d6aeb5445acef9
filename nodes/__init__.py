"""The ComfyUI nodes. Each module lists its own in `NODES`, key -> (class, display name)."""

from __future__ import annotations

from functools import wraps
from inspect import signature

from ..hallo3_core.errors import InputError, naming_missing_packages
from . import audio, chaining, face, film, grid, loaders, reference, samples, sampling, vocals
from .checking import checked

MODULES = (loaders, audio, face, reference, sampling, chaining, film, grid, vocals, samples)

# The host shows an error's class with its module name, which for a node pack is a file path. "builtins" hides it.
InputError.__module__ = "builtins"


def mappings() -> tuple[dict[str, type], dict[str, str]]:
    """Node classes and display names by key, as the host expects them from a node pack."""
    nodes = {}
    for module in MODULES:
        nodes |= module.NODES
    return {key: speaking(node) for key, (node, _) in nodes.items()}, {key: name for key, (_, name) in nodes.items()}


def speaking(node: type) -> type:
    """Makes a node class check its inputs, and show its warnings and errors on the node as well as in the log. An error
    about something missing names all that is."""
    run = getattr(node, node.FUNCTION)
    form = signature(run)

    @wraps(run)
    def execute(self, *args, **inputs):
        from . import needs
        from .host import messages

        _, *values = form.bind_partial(self, *args, **inputs).arguments.items()
        telling = needs.told_together(node.__name__, dict(values))
        with messages.speaking(inputs.get("node_id")), telling, naming_missing_packages():
            return run(self, **checked(node, dict(values)))

    setattr(node, node.FUNCTION, execute)
    return node
