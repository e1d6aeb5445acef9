"""The one exception for what a user can mend: its message is the whole story, shown without a traceback."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

LAUNCHER = Path(__file__).parents[1] / "hallo3.py"


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
        command = pip_command("install", package)
        raise InputError(f"{purpose} needs the package {package}. Run {command}, and start again.") from error


def own_command(*arguments: str) -> str:
    """The line that runs this project's command line in this Python, from whatever folder one is in."""
    words = (sys.executable, str(LAUNCHER), *arguments)
    return " ".join(f'"{word}"' if " " in word else word for word in words)


def pip_command(verb: str, *packages: str) -> str:
    """The line that installs or uninstalls packages in the Python that runs this, which need not be the PATH's."""
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    start = f"{python} -m pip {verb}" if find_spec("pip") else f"uv pip {verb} --python {python}"
    return " ".join((start, *packages))
