"""Mutants that are the same program, and why: there is nothing a test could find."""

from __future__ import annotations

SAME: dict[str, dict[str, str]] = {}
