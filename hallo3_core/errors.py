"""The one exception for what a user can mend: its message is the whole story, shown without a traceback."""

from __future__ import annotations

import importlib
from types import ModuleType


class InputError(ValueError):
    """Bad input: the message names the file or value, what was found, what was expected and what to do."""


def require(module: str, package: str, purpose: str) -> ModuleType:
    """Import an optional package where it is used; its absence is answered with the install command.

    Raises:
        InputError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] != module.split(".")[0]:
            raise  # the package is there but one of its own needs is not: its own words are the better message
        raise InputError(f"{purpose} needs the package {package}: python -m pip install {package}") from error
