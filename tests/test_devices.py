"""Device capabilities: dtypes by GPU generation, and the memory limit for Windows. The GPUs are simulated."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hallo3_core.errors import InputError
from hallo3_core.runtime import devices
from hallo3_core.runtime.devices import automatic_dtype, check_dtype, check_torch, choose_device, stay_in_gpu_memory


@pytest.fixture
def gpu(monkeypatch):
    """`gpu(major)` gives CUDA devices this compute capability."""

    def of(major):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major))

    return of


@pytest.mark.parametrize(
    ("device", "major", "dtype"),
    [
        ("cpu", None, torch.float32),
        ("mps", None, torch.bfloat16),
        ("cuda", 7, torch.float16),  # Turing: bfloat16 kernels are missing or slow
        ("cuda:1", 8, torch.bfloat16),
        ("cuda", 12, torch.bfloat16),
    ],
)
def test_the_dtype_without_an_option(gpu, device, major, dtype):
    gpu(major)
    assert automatic_dtype(device) == dtype
    check_dtype(dtype, device)


def test_an_old_gpu_is_reported_before_anything_is_loaded(gpu):
    gpu(7)
    with pytest.raises(InputError, match="--dtype bf16: cuda:0 is older than NVIDIA's RTX 30 series.*choose fp16"):
        check_dtype(torch.bfloat16, "cuda:0")
    check_dtype(torch.float16, "cuda:0")


def test_a_torch_that_is_too_old_is_refused_by_its_version():
    for version in ("2.7.0+cu126", "2.13.0", "3.0.0a0+git1"):
        check_torch(version)
    for version in ("2.6.0+cu124", "1.13.1"):
        with pytest.raises(InputError, match=f"PyTorch {version[:5]}.* is too old: 2.7 or newer"):
            check_torch(version)
    stated = re.search(r"PyTorch ([\d.]+) or newer", (Path(__file__).parents[1] / "requirements.txt").read_text())[1]
    assert stated == ".".join(map(str, devices.LOWEST_TORCH))


@pytest.mark.parametrize("name", ["cuda", "nonsense", "meta"])
def test_a_device_that_is_not_here_is_refused(name):
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("it is here")
    with pytest.raises(InputError, match=f"--device {name}: not available here"):
        choose_device(name)


@pytest.mark.parametrize(("system", "device", "limits"), [("nt", "cuda:1", [(0.75, 1)]), ("posix", "cuda:1", [])])
def test_windows_is_made_to_stay_in_gpu_memory(monkeypatch, system, device, limits):
    calls = []
    monkeypatch.setattr(devices.os, "name", system)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (5 << 30, 8 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda index: 1 << 30)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *args: calls.append(args))
    stay_in_gpu_memory(device)
    stay_in_gpu_memory("cpu")
    monkeypatch.undo()
    assert calls == limits
