"""The exception for errors that the user can fix. Its message is complete and is shown without a traceback."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

LAUNCHER = Path(__file__).parents[1] / "hallo3.py"
# The packages of requirements.txt by module; a test compares the two.
REQUIRED = {
    "diffusers": "diffusers",
    "transformers": "transformers",
    "sentencepiece": "sentencepiece",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface_hub",
    "einops": "einops",
    "av": "av",
    "PIL": "Pillow",
    "tqdm": "tqdm",
}


class InputError(ValueError):
    """Bad input: the message names the file or value, what was found, what was expected and what to do."""


class Missing(InputError):
    """A package or file is not there that can be installed or downloaded. `package` is what pip calls it, if it is one:
    the canvas tells all that is missing together."""

    def __init__(self, message: str, package: str = ""):
        super().__init__(message)
        self.package = package


def require(module: str, package: str, purpose: str) -> ModuleType:
    """Imports an optional package where it is used. If it is missing, the error gives the install command.

    Raises:
        Missing: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] != module.split(".")[0]:
            raise  # the package is installed but one of its dependencies is not: its own message is better
        command = pip_command("install", package)
        raise Missing(f"{purpose} needs the package {package}. Run {command}, and start again.", package) from error


def own_command(*arguments: str) -> str:
    """The shell command that runs this project's CLI in this Python, from any folder."""
    words = (sys.executable, str(LAUNCHER), *arguments)
    return " ".join(f'"{word}"' if " " in word else word for word in words)


def pip_command(verb: str, *packages: str) -> str:
    """The shell command that installs or uninstalls packages in this Python, which may not be the one on PATH."""
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    start = f"{python} -m pip {verb}" if find_spec("pip") else f"uv pip {verb} --python {python}"
    return " ".join((start, *packages))
