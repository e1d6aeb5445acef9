"""The exception for errors that the user can fix, and the commands that its messages give.

A message is complete and is shown without a traceback. A command in it runs in the user's own Python from any folder.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
    "av": "av",
    "PIL": "Pillow",
    "tqdm": "tqdm",
}
OTHER_NAMES = {"yaml": "pyyaml"}  # other packages whose modules have another name


class InputError(ValueError):
    """Bad input: the message names the file or value, what was found, what was expected and what to do."""


class Missing(InputError):
    """A package or file is not there that can be installed or downloaded. `package` is what pip calls it, if it is one:
    the canvas tells all that is missing together."""

    def __init__(self, message: str, package: str = ""):
        super().__init__(message)
        self.package = package


def require(module: str, package: str, purpose: str) -> ModuleType:
    """Imports a package where it is used. If it is missing, the error gives the install command.

    Raises:
        Missing: the package, or one that it needs, is not installed.
        InputError: it cannot be loaded.
    """
    return _imported(module, package, purpose)


def require_class(module: str, name: str, package: str, purpose: str) -> type:
    """A class of a package that imports its own modules when a class is first asked for, as transformers and diffusers
    do.

    Raises:
        InputError: as `require`, which is a `Missing` too.
    """
    library = _imported(module, package, purpose)
    try:
        return getattr(library, name)
    except Exception as error:  # as above; its class depends on the package's version
        raise _not_loaded(error, module, package, purpose) from error


def missing_package(error: BaseException) -> Missing | None:
    """The answer to an import that failed because a package is not installed; None if it failed for another reason."""
    module = _missing_module(error)
    if module is None:
        return None
    package = REQUIRED.get(module) or OTHER_NAMES.get(module, module)
    return Missing(f"the package {package} is not installed. {_how_to_install(package)}", package)


@contextmanager
def naming_missing_packages() -> Iterator[None]:
    """Turns an import that fails in it because a package is not installed into a `Missing`."""
    try:
        yield
    except ImportError as error:
        answer = missing_package(error)
        if answer is None:
            raise
        raise answer from error


def own_command(*arguments: str) -> str:
    """The shell command that runs this project's command line in this Python, from any folder."""
    start = (str(LAUNCHER),) if LAUNCHER.exists() else ("-m", "hallo3_core")  # installed, without the pack's folder
    words = (sys.executable, *start, *arguments)
    return " ".join(f'"{word}"' if " " in word else word for word in words)


def pip_command(verb: str, *packages: str) -> str:
    """The shell command that installs or uninstalls packages in this Python, which may not be the one on PATH."""
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    start = f"{python} -m pip {verb}" if find_spec("pip") else f"uv pip {verb} --python {python}"
    return " ".join((start, *packages))


def _imported(module: str, package: str, purpose: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # packages raise many kinds while they are imported
        raise _not_loaded(error, module, package, purpose) from error


def _not_loaded(error: Exception, module: str, package: str, purpose: str) -> Exception:
    missing = _missing_module(error)
    if missing == module.split(".")[0]:
        return Missing(f"{purpose} needs the package {package}. {_how_to_install(package)}", package)
    if missing is not None:
        return missing_package(error)
    reason = (str(error).strip() or type(error).__name__).splitlines()[-1][:200]
    command = pip_command("install --upgrade", package)
    return InputError(f"{package} is installed but cannot be loaded ({reason}). Run {command}, and start again.")


def _missing_module(error: BaseException | None) -> str | None:
    """The module without its package, from the error or from what caused it."""
    while error is not None:
        module = (getattr(error, "name", None) or "").split(".")[0]
        if isinstance(error, ModuleNotFoundError) and module and not _is_there(module):
            return module
        error = error.__cause__
    return None


def _how_to_install(package: str) -> str:
    """The command that installs a package, and with it all of requirements.txt that is missing."""
    others = [own for module, own in REQUIRED.items() if own.lower() != package.lower() and not _is_there(module)]
    return f"Run {pip_command('install', package, *others)}, and start again."


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a module that was put into sys.modules by hand
        return module in sys.modules
