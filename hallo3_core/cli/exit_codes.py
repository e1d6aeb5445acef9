"""Exit codes of the commands."""

from __future__ import annotations

DONE = 0
NOT_DONE = 2  # with one line that says why
INTERRUPTED = 130  # Ctrl-C; this and the next follow the shells' convention
TERMINATED = 143  # SIGTERM
