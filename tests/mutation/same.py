"""Mutants that are the same program, and why: there is nothing a test could find."""

from __future__ import annotations

UNREACHED = "sample: raise AssertionError('a schedule has at least one step') -> pass"

SAME: dict[str, dict[str, str]] = {
    "sampling.guidance": {
        "branch_weights: True -> False": "zip's strict, over three names and the three values of a named tuple of them",
    },
    "sampling.sampler": {UNREACHED: "the last step returns before, and no schedule is without a step"},
}
