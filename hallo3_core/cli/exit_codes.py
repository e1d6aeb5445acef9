"""How a command ended, for the shell."""

from __future__ import annotations

DONE = 0
NOT_DONE = 2  # one line says why
INTERRUPTED = 130  # Ctrl-C; this and the next as shells have them
TERMINATED = 143  # SIGTERM
