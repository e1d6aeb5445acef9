"""Text shown on a node: a status line that changes as it runs, and below it the warnings that are also logged.

The page keeps a node's text until the next text, so a run that ends early has to replace it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import comfy.model_management as management

from ...hallo3_core.errors import InputError

PACK = __name__.removesuffix(".nodes.host.messages")  # parent of all loggers in the pack
NOTHING = " "  # the page ignores an empty text, so a blank one clears the earlier text

_running: ContextVar[NodeText | None] = ContextVar("hallo3_running", default=None)


class NodeText:
    """The text of one running node."""

    def __init__(self, node_id: str | None):
        self.node_id, self.line, self.warnings = node_id, "", []

    def say(self, line: str) -> None:
        self.line = line
        _board.write(self)

    def warn(self, warning: str) -> None:
        """Adds a warning, unless the node already shows it."""
        if warning not in self.warnings:
            self.warnings.append(warning)
            _board.write(self)


class _Board:
    """The texts shown on all nodes. Text of a node inside a subgraph, "12:5", also appears on the subgraph's node,
    "12", since only that is visible from outside. It shows the warnings of all nodes inside."""

    def __init__(self):
        self.prompt: str | None = None
        self.texts: dict[str, NodeText] = {}  # by node, of the current run
        self.written: set[str] = set()  # nodes on which the page shows a text

    def begin(self, text: NodeText, prompt: str | None) -> None:
        if prompt != self.prompt:
            self.prompt, self.texts = prompt, {}
        if text.node_id is not None:
            self.texts[text.node_id] = text

    def write(self, text: NodeText) -> None:
        if text.node_id is None:
            return
        for place in _places(text.node_id):
            inside = [t for i, t in self.texts.items() if i == place or i.startswith(f"{place}:")]
            warnings = dict.fromkeys(warning for t in inside for warning in t.warnings)
            lines = [text.line] if text.line.strip() or not warnings else []
            self.written.add(place)
            _send("\n".join([*lines, *(f"Warning: {warning}" for warning in warnings)]), place)

    def replace(self, text: NodeText, line: str) -> None:
        """Replaces the text on the node, even an earlier run's. Does nothing if the node shows no text."""
        if text.node_id in self.written:
            text.say(line)

    def erase(self, text: NodeText) -> None:
        """Clears the text that an earlier run left."""
        if text.node_id in self.written:
            _send(NOTHING, text.node_id)


_board = _Board()


class _Listener(logging.Handler):
    """Passes warnings that are logged during a run on to the running node."""

    def __init__(self, text: NodeText):
        super().__init__(logging.WARNING)
        self._text = text

    def emit(self, record: logging.LogRecord) -> None:
        args = record.args if isinstance(record.args, tuple) else ()
        self._text.warn(record.msg % tuple(map(_short, args)) if args else record.getMessage())


@contextmanager
def speaking(node_id: str | None = None) -> Iterator[None]:
    """Shows the pack's warnings on the node while it runs, and why it stopped if it failed or was cancelled.

    node_id None: the node that the host is running. A nested call does nothing.
    """
    if _running.get() is not None:
        yield
        return
    context = _context()
    text = NodeText(node_id if node_id is not None else getattr(context, "node_id", None))
    _board.begin(text, getattr(context, "prompt_id", None))
    listener, token, log = _Listener(text), _running.set(text), logging.getLogger(PACK)
    log.addHandler(listener)
    try:
        yield
        if not text.line and not text.warnings:
            _board.erase(text)
    except InputError as error:
        text.say(str(error))
        raise
    except management.InterruptProcessingException:
        _board.replace(text, "cancelled")
        raise
    except Exception:
        _board.replace(text, "stopped by an error")
        raise
    finally:
        log.removeHandler(listener)
        _running.reset(token)


def say(line: str) -> None:
    """Sets the status line of the running node."""
    running = _running.get()
    if running is not None:
        running.say(line)


def show_text(text: str, node_id: str | None) -> None:
    """Sets the status line of a node. Does nothing without a server."""
    running = _running.get()
    if running is not None and running.node_id == node_id:
        running.say(text)
    elif node_id is not None:
        _send(text, node_id)


def _short(value: Any) -> Any:
    """A path's last name: where a file lies is in the log."""
    return os.path.basename(value) if isinstance(value, (str, Path)) and os.path.isabs(value) else value


def _places(node_id: str) -> list[str]:
    """The ids of the node and of its enclosing subgraphs, which are prefixes of its own: "12:5" -> "12:5", "12"."""
    parts = str(node_id).split(":")
    return [":".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _context() -> Any:
    """The host's context of the running node, or None if no node is running."""
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:
        return None
    return get_executing_context()


def _send(text: str, node_id: str) -> None:
    try:
        from server import PromptServer
    except ImportError:
        return
    send = getattr(getattr(PromptServer, "instance", None), "send_progress_text", None)
    if send is not None:
        send(text.encode(errors="backslashreplace").decode(), node_id)  # a path need not be valid UTF-8
