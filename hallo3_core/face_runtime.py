"""ONNX Runtime, which runs the face networks: asked for where it is used, and taken in whatever build is there.

Its builds (onnxruntime, onnxruntime-gpu, onnxruntime-directml and others) are separate packages with one and the same
folder: installing a second overwrites the first, and a CUDA build is gone. So requirements.txt names none of them, and
what is missing is answered here with the exact command for what is installed.
"""

from __future__ import annotations

from importlib import metadata
from types import ModuleType

from .errors import InputError, pip_command, require

PROVIDERS = {
    "CPU": "CPUExecutionProvider",
    "CUDA": "CUDAExecutionProvider",
    "ROCM": "ROCMExecutionProvider",
    "CoreML": "CoreMLExecutionProvider",
    "DirectML": "DmlExecutionProvider",
}
BUILDS = {
    "CPU": "onnxruntime",
    "CUDA": "onnxruntime-gpu",
    "ROCM": "onnxruntime-rocm",
    "CoreML": "onnxruntime",
    "DirectML": "onnxruntime-directml",
}  # the package that brings a provider


def load_runtime(provider: str) -> ModuleType:
    """ONNX Runtime, if it offers `provider` (one of `PROVIDERS`).

    Raises:
        InputError: an unknown provider, no ONNX Runtime, one that cannot be loaded, or one without this provider.
    """
    if provider not in PROVIDERS:
        raise InputError(f"face provider {provider!r}: expected one of {', '.join(PROVIDERS)}.")
    try:
        runtime = require("onnxruntime", BUILDS[provider], "finding faces")
        available = runtime.get_available_providers()
    except (ImportError, AttributeError) as error:  # a folder half overwritten, or libraries that are not there
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"onnxruntime is installed but cannot be loaded ({reason}). {replace_by(provider)}") from error
    if PROVIDERS[provider] not in available:
        offered = ", ".join(name for name, full in PROVIDERS.items() if full in available) or "none of ours"
        raise InputError(
            f"face provider {provider}: the installed onnxruntime offers {offered}. Choose one of these: the face is "
            f"looked for once a film, so CPU is quick enough. For {provider}: {replace_by(provider)}"
        )
    return runtime


def installed_builds() -> list[str]:
    """The installed packages that bring ONNX Runtime; more than one have overwritten each other."""
    return sorted(set(metadata.packages_distributions().get("onnxruntime", [])))


def replace_by(provider: str) -> str:
    """How to come to the one build that brings a provider, from what is installed."""
    builds = installed_builds()
    several = f"{' and '.join(builds)} overwrite each other. " if len(builds) > 1 else ""
    steps = [pip_command("uninstall", *builds)] if builds else []
    steps.append(pip_command("install", BUILDS[provider]))
    return f"{several}Run {', then '.join(steps)}, and start again."
