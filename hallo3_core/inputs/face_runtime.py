"""Imports InsightFace and MediaPipe with ONNX Runtime and OpenCV in any installed build, and says how to install what
is missing.

ONNX Runtime and OpenCV come in several builds (onnxruntime, onnxruntime-gpu, ...; opencv-python,
opencv-python-headless, ...). These are separate packages that install into the same folder, so a second one overwrites
the first, for example a CUDA build. InsightFace and MediaPipe depend on builds by name. Therefore they are installed
without dependencies (`--no-deps`) after their requirements, whose installed builds are kept. So requirements.txt lists
none of them, and error messages give the exact commands for this installation.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from ..errors import InputError, Missing, pip_command

T = TypeVar("T")

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
}  # the package that contains a provider
# also works on servers and in containers, which lack the libGL that opencv-python needs
HEADLESS = "opencv-python-headless"
NEEDS = {"onnx": "onnx", "skimage": "scikit-image", "scipy": "scipy", "requests": "requests", "tqdm": "tqdm"}
# InsightFace's other requirements, package by module.
# requirements of InsightFace 0.7 whose package and module names differ
OLDER_NEEDS = {"sklearn": "scikit-learn", "PIL": "pillow"}
ALONE = ("insightface", "mediapipe")  # packages that would bring another build of OpenCV
# MediaPipe's other requirements that its import needs, package by module.
MEDIAPIPE_NEEDS = {"absl": "absl-py", "flatbuffers": "flatbuffers", "matplotlib": "matplotlib"}


def load_model_zoo(provider: str) -> ModuleType:
    """InsightFace's model zoo, version 0.7 or 2, with an ONNX Runtime that has `provider` (one of `PROVIDERS`).

    Raises:
        InputError: the provider is unknown or unavailable, or a package is missing or cannot be imported.
    """
    if provider not in PROVIDERS:
        raise InputError(f"face provider {provider!r}: expected one of {', '.join(PROVIDERS)}.")
    _check_installed(missing_packages(provider), "finding faces")
    _check_runtime(provider)
    _check_opencv()
    return _model_zoo()


def load_mediapipe() -> ModuleType:
    """MediaPipe, for its face landmarks.

    Raises:
        InputError: it or a package that it imports is missing or cannot be imported.
    """
    _check_installed(
        _not_there({"cv2": HEADLESS, **MEDIAPIPE_NEEDS, "mediapipe": "mediapipe"}), "MediaPipe's face mask"
    )
    _check_opencv()
    try:
        import mediapipe.tasks.python.vision
    except Exception as error:  # includes libraries built for another numpy
        raise InputError(_unloadable("mediapipe", error, how_to_install({"mediapipe": "mediapipe"}))) from error
    return mediapipe


def _check_installed(missing: dict[str, str], purpose: str) -> None:
    if missing:
        packages = f"package{'s' if len(missing) > 1 else ''} {_listed(missing.values())}"
        raise Missing(f"{purpose} needs the {packages}. {how_to_install(missing)}")


def _not_there(needed: dict[str, str]) -> dict[str, str]:
    return {module: package for module, package in needed.items() if not is_there(module)}


def installed_builds(module: str) -> list[str]:
    """Installed packages that contain a module. If there are several, they have overwritten each other."""
    return sorted(set(metadata.packages_distributions().get(module, [])))


def missing_packages(provider: str = "CPU") -> dict[str, str]:
    """The packages to install for finding faces, by module."""
    return _not_there({"onnxruntime": BUILDS[provider], "cv2": HEADLESS, **NEEDS, "insightface": "insightface"})


def how_to_install(wanted: dict[str, str]) -> str:
    """The advice that gives `install_commands`."""
    return f"Run {', then '.join(install_commands(wanted))}, and start again."


def install_commands(wanted: dict[str, str]) -> list[str]:
    """The commands that install this package for each module, and uninstall all others that contain the module."""
    old = [build for module in wanted for build in installed_builds(module)]
    together = [package for package in wanted.values() if package not in ALONE]
    steps = [pip_command("uninstall", *old)] if old else []
    if together:
        steps.append(pip_command("install", *together))
    return steps + [pip_command("install", "--no-deps", package) for package in wanted if package in ALONE]


def _check_runtime(provider: str) -> None:
    try:
        import onnxruntime

        available = onnxruntime.get_available_providers()
    except (ImportError, AttributeError) as error:  # partly overwritten, or libraries missing
        raise InputError(
            _unloadable("onnxruntime", error, how_to_install({"onnxruntime": BUILDS[provider]}))
        ) from error
    if PROVIDERS[provider] in available:
        onnxruntime.set_default_logger_severity(3)  # errors only, as in InsightFace's own front end
        return
    offered = ", ".join(name for name, full in PROVIDERS.items() if full in available) or "none of these"
    builds = installed_builds("onnxruntime")
    several = f"{' and '.join(builds)} overwrite each other. " if len(builds) > 1 else ""
    raise InputError(
        f"face provider {provider}: the installed onnxruntime offers {offered}. Choose one of these: the face is "
        f"looked for once a video, so CPU is quick enough. For {provider}: {several}"
        f"{how_to_install({'onnxruntime': BUILDS[provider]})}"
    )


def _check_opencv() -> None:
    try:
        import cv2  # noqa: F401
    except (ImportError, AttributeError) as error:  # usually libGL.so.1 on a headless machine
        contributed = any("contrib" in build for build in installed_builds("cv2"))
        headless = "opencv-contrib-python-headless" if contributed else HEADLESS
        raise InputError(_unloadable("OpenCV", error, how_to_install({"cv2": headless}))) from error


def _model_zoo() -> ModuleType:
    try:
        import insightface.model_zoo
    except Exception as error:  # includes extensions built for another numpy
        module = (getattr(error, "name", None) or "insightface").split(".")[0]
        if isinstance(error, ModuleNotFoundError) and module != "insightface":  # a requirement of an older version
            advice = f"Run {pip_command('install', OLDER_NEEDS.get(module, module))}, and start again."
        else:
            advice = how_to_install({"insightface": "insightface"})
        raise InputError(_unloadable("insightface", error, advice)) from error
    return insightface.model_zoo


def is_there(module: str) -> bool:
    """Whether a module can be found. An uninstalled package's leftover folder has no origin and does not count."""
    try:
        spec = find_spec(module)
    except ImportError:
        return False
    except ValueError:  # a module without a specification, put there by another program
        return True
    return spec is not None and spec.origin is not None


def _unloadable(name: str, error: Exception, advice: str) -> str:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"{name} is installed but cannot be loaded ({reason}). {advice}"


def _listed(packages: Iterable[str]) -> str:
    *others, last = packages
    return f"{', '.join(others)} and {last}" if others else last


def in_utf8(path: Path, load: Callable[[str], T]) -> T:
    """Calls `load` with the file's path or, if that is not valid UTF-8, with the path of a symbolic link to it.

    The link lives as long as the result, because InsightFace reads the file again for a picture of another size."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        folder = tempfile.TemporaryDirectory()
        link = Path(folder.name, "model.onnx")
        link.symlink_to(path.absolute())
        loaded = load(str(link))
        weakref.finalize(loaded, folder.cleanup)
        return loaded
    return load(str(path))
