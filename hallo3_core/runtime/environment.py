"""Numbers in the environment that torchrun sets. A variable that is set and empty counts as not set."""

from __future__ import annotations

import os

from ..errors import InputError


def number(name: str, default: int) -> int:
    """The whole number in a variable.

    Raises:
        InputError: it is something else.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise InputError(
            f"the environment's {name} is {text!r}, expected a whole number as torchrun sets it. Unset it."
        )
    return int(text)


def has(*names: str) -> bool:
    """Whether all of these variables are set, and not empty."""
    return all(os.environ.get(name, "").strip() for name in names)
