"""InsightFace, ONNX Runtime and OpenCV are used as installed; errors give the commands to install missing packages."""

from __future__ import annotations

import importlib
import sys
import sysconfig

import pytest

from hallo3_core import errors
from hallo3_core.errors import InputError
from hallo3_core.inputs import face_runtime
from hallo3_core.inputs.face_runtime import NEEDS

CPU, CUDA = ["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]
OTHERS = {package: module for module, package in NEEDS.items()}
RUNTIME = "def get_available_providers(): return {}\ndef set_default_logger_severity(level): pass\n"
PIP = "/comfy/python -m pip"


class Installation:
    """The only packages that this Python has: each is a module with a package manager's metadata, in one folder."""

    def __init__(self, folder):
        self.folder = folder

    def add(self, package, module, code=""):
        """code: None for a package with metadata but without its module."""
        notes = self.folder / f"{package.replace('-', '_')}-1.0.dist-info"
        notes.mkdir(parents=True)
        (notes / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (notes / "top_level.txt").write_text(f"{module}\n")
        (self.folder / module).mkdir(exist_ok=True)
        if code is not None:
            (self.folder / module / "__init__.py").write_text(code)
        importlib.invalidate_caches()
        return self

    def runtime(self, build="onnxruntime", providers=CPU):
        return self.add(build, "onnxruntime", RUNTIME.format(providers))

    def opencv(self, build="opencv-python-headless", code=""):
        return self.add(build, "cv2", code)

    def others(self, without=()):
        for package in OTHERS.keys() - set(without):
            self.add(package, OTHERS[package])
        return self

    def insightface(self, code=""):
        self.add("insightface", "insightface", code)
        (self.folder / "insightface" / "model_zoo.py").write_text("")
        return self


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A Python with only the standard library and pip."""
    roots = {"insightface", "onnxruntime", "cv2", *NEEDS}

    def ours():
        return {name: module for name, module in sys.modules.items() if name.split(".")[0] in roots}

    before = ours()
    for name in before:
        del sys.modules[name]
    library = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *library])
    monkeypatch.setattr(sys, "executable", "/comfy/python")
    yield Installation(tmp_path).add("pip", "pip")
    for name in ours():
        del sys.modules[name]
    sys.modules.update(before)


def message(provider="CPU"):
    with pytest.raises(InputError) as caught:
        face_runtime.load_model_zoo(provider)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def steps(advice):
    """The commands in a message, with the packages of each."""
    commands = advice.partition("Run ")[2].removesuffix(", and start again.").split(", then ")
    assert all(command.startswith(PIP) for command in commands), advice
    return [command.removeprefix(f"{PIP} ").split() for command in commands]


@pytest.mark.parametrize("build", sorted(set(face_runtime.BUILDS.values())))
@pytest.mark.parametrize("opencv", ["opencv-python", "opencv-python-headless", "opencv-contrib-python"])
def test_any_builds_serve(installed, build, opencv):
    installed.runtime(build).opencv(opencv).others().insightface()
    assert face_runtime.load_model_zoo("CPU").__name__ == "insightface.model_zoo"


@pytest.mark.parametrize("provider", face_runtime.PROVIDERS)
def test_with_nothing_installed_everything_is_named(installed, provider):
    """InsightFace comes separately and last, since its requirements name builds that would be installed over these."""
    first, second = steps(message(provider))
    assert first == ["install", face_runtime.BUILDS[provider], "opencv-python-headless", *NEEDS.values()]
    assert second == ["install", "--no-deps", "insightface"]


@pytest.mark.parametrize("build", ["onnxruntime", "onnxruntime-gpu", "onnxruntime-directml"])
@pytest.mark.parametrize("opencv", ["opencv-python", "opencv-contrib-python-headless"])
def test_no_second_build_is_ever_asked_for(installed, build, opencv):
    installed.runtime(build, CUDA).opencv(opencv).others(without=["scipy", "onnx"])
    for provider in ("CPU", "CUDA"):
        advice = message(provider)
        assert advice.startswith("finding faces needs the packages onnx, scipy and insightface. Run ")
        assert steps(advice) == [["install", "onnx", "scipy"], ["install", "--no-deps", "insightface"]]


def test_only_what_is_missing_is_asked_for(installed):
    installed.runtime().opencv().others()
    assert (
        message()
        == f"finding faces needs the package insightface. Run {PIP} install --no-deps insightface, and start again."
    )
    installed.insightface()
    assert face_runtime.load_model_zoo("CPU")


def test_the_needs_of_an_older_insightface_are_reported(installed):
    installed.runtime().opencv().others().insightface("import sklearn")
    advice = message()
    assert advice.startswith("insightface is installed but cannot be loaded (No module named 'sklearn').")
    assert steps(advice) == [["install", "scikit-learn"]]


@pytest.mark.parametrize(
    "code",
    [
        "raise ValueError('numpy.dtype size changed\\nmore')",  # built for another numpy
        "from .thirdparty import mesh",  # part of it is missing
        "import types; types.ModuleType('numpy').int",  # AttributeError
    ],
)
def test_an_insightface_that_cannot_be_loaded_is_exchanged(installed, code):
    installed.runtime("onnxruntime-gpu").opencv().others().insightface(code)
    advice = message()
    assert advice.startswith("insightface is installed but cannot be loaded (")
    assert steps(advice) == [["uninstall", "insightface"], ["install", "--no-deps", "insightface"]]


@pytest.mark.parametrize(
    ("builds", "headless"),
    [
        (["opencv-python"], "opencv-python-headless"),
        (["opencv-contrib-python", "opencv-python"], "opencv-contrib-python-headless"),
    ],
)
def test_an_opencv_without_its_libraries_is_exchanged_for_the_headless_one(installed, builds, headless):
    installed.runtime().others().insightface()
    for build in builds:
        installed.opencv(build, "raise ImportError('libGL.so.1: cannot open shared object file')")
    advice = message()
    assert advice.startswith("OpenCV is installed but cannot be loaded (libGL.so.1: cannot open")
    assert steps(advice) == [["uninstall", *builds], ["install", headless]]


def test_a_build_without_the_provider_is_exchanged_not_added_to(installed):
    installed.runtime(providers=["AzureExecutionProvider", *CPU]).opencv().others().insightface()
    advice = message("CUDA")
    assert "offers CPU." in advice
    assert steps(advice) == [["uninstall", "onnxruntime"], ["install", "onnxruntime-gpu"]]


def test_builds_that_overwrote_each_other_are_both_removed(installed):
    installed.runtime("onnxruntime-gpu").runtime("onnxruntime").opencv().others().insightface()
    advice = message("CUDA")
    assert "onnxruntime and onnxruntime-gpu overwrite each other" in advice
    assert steps(advice)[0] == ["uninstall", "onnxruntime", "onnxruntime-gpu"]


def test_a_runtime_that_cannot_be_loaded_is_exchanged(installed):
    installed.add("onnxruntime-gpu", "onnxruntime", "raise ImportError('libcudart.so.12')")
    installed.opencv().others().insightface()
    advice = message("CUDA")
    assert "onnxruntime is installed but cannot be loaded (libcudart.so.12)" in advice
    assert steps(advice) == [["uninstall", "onnxruntime-gpu"], ["install", "onnxruntime-gpu"]]


def test_a_package_that_is_registered_but_missing_is_uninstalled_first(installed):
    """Uninstalling one of two builds deletes the folder they share, but pip still lists the other as installed."""
    installed.runtime().opencv(code=None).others().insightface()
    advice = message()
    assert advice.startswith("finding faces needs the package opencv-python-headless.")
    assert steps(advice) == [["uninstall", "opencv-python-headless"], ["install", "opencv-python-headless"]]


def test_an_unknown_provider_is_refused(installed):
    assert message("TPU") == "face provider 'TPU': expected one of CPU, CUDA, ROCM, CoreML, DirectML."


def test_the_command_is_that_of_this_python(monkeypatch):
    monkeypatch.setattr(sys, "executable", r"C:\My ComfyUI\python.exe")
    assert errors.pip_command("install", "av") == r'"C:\My ComfyUI\python.exe" -m pip install av'
    monkeypatch.setattr(errors, "find_spec", lambda name: None)  # made by uv, without pip
    assert errors.pip_command("install", "av") == r'uv pip install --python "C:\My ComfyUI\python.exe" av'
