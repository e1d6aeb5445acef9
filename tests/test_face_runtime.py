"""ONNX Runtime is taken in whatever build is there; what is missing is answered with the command for what is there."""

from __future__ import annotations

import sys
from importlib import metadata
from types import SimpleNamespace

import pytest

from hallo3_core import errors, face_runtime
from hallo3_core.errors import InputError

CPU_ONLY = ["CPUExecutionProvider"]


@pytest.fixture
def install(monkeypatch):
    """`install(packages, providers)`: what this Python would hold; providers None: no module at all."""

    def arrange(packages, providers):
        runtime = None if providers is None else SimpleNamespace(get_available_providers=lambda: providers)
        monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
        monkeypatch.setattr(metadata, "packages_distributions", lambda: {"onnxruntime": packages} if packages else {})
        monkeypatch.setattr(sys, "executable", "/comfy/python")
        return runtime

    return arrange


def message(provider):
    with pytest.raises(InputError) as caught:
        face_runtime.load_runtime(provider)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("build", sorted(set(face_runtime.BUILDS.values())))
def test_any_build_serves(install, build):
    runtime = install([build], CPU_ONLY)
    assert face_runtime.load_runtime("CPU") is runtime


@pytest.mark.parametrize("provider", face_runtime.PROVIDERS)
def test_where_there_is_none_the_one_that_is_needed_is_named(install, provider):
    install([], None)
    command = f"Run /comfy/python -m pip install {face_runtime.BUILDS[provider]}, and start again."
    assert message(provider).endswith(command)


def test_a_build_without_the_provider_is_exchanged_not_added_to(install):
    install(["onnxruntime"], ["AzureExecutionProvider", *CPU_ONLY])
    told = message("CUDA")
    assert "offers CPU" in told
    remove, add = "/comfy/python -m pip uninstall onnxruntime", "/comfy/python -m pip install onnxruntime-gpu"
    assert f"Run {remove}, then {add}, and start again." in told


def test_builds_that_overwrote_each_other_are_both_removed(install):
    install(["onnxruntime-gpu", "onnxruntime"], CPU_ONLY)
    told = message("CUDA")
    assert "onnxruntime and onnxruntime-gpu overwrite each other" in told
    assert "pip uninstall onnxruntime onnxruntime-gpu, then" in told


def test_a_half_removed_build_is_told(install, monkeypatch):
    install(["onnxruntime-gpu"], None)
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace())  # what is left: an empty folder
    told = message("CUDA")
    assert "cannot be loaded" in told and "pip uninstall onnxruntime-gpu, then" in told


def test_the_command_is_that_of_this_python(monkeypatch):
    monkeypatch.setattr(sys, "executable", r"C:\My ComfyUI\python.exe")
    assert errors.pip_command("install", "av") == r'"C:\My ComfyUI\python.exe" -m pip install av'
    monkeypatch.setattr(errors, "find_spec", lambda name: None)  # made by uv, without pip
    assert errors.pip_command("install", "av") == r'uv pip install --python "C:\My ComfyUI\python.exe" av'
