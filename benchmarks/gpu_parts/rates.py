"""The machine, and the hardware rates that bound everything else."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import torch

from benchmarks.gpu_parts.bench import Bench, attempt
from hallo3_core.runtime.devices import all_bytes, automatic_dtype
from hallo3_core.runtime.fp8_matmul import has_fp8_matmuls
from hallo3_core.runtime.streaming import CudaTransfer
from tools.testbed.measuring import is_cpu, processor, seconds_of

PACKAGES = ("numpy", "einops", "safetensors", "diffusers", "transformers", "triton", "sageattention")
REPEATS = 20  # per measurement: a single matmul takes little longer than its synchronisation
DRIVER = ("nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm,clocks.max.mem", "--format=csv,noheader")


def versions(bench: Bench) -> dict[str, Any]:
    """Software, device and host."""
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "packages": {name: version_of(name) for name in PACKAGES},
        "flash_attention_3": find_spec("flash_attn_interface") is not None,
        "host_cpu": processor(),
        "host_threads": torch.get_num_threads(),
        "host_GB": round(all_bytes("cpu") / 1e9, 1),
        "allocator": os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or os.environ.get("PYTORCH_ALLOC_CONF"),
        "automatic_dtype": str(automatic_dtype(bench.device)).removeprefix("torch."),
    }
    if bench.device.type == "cuda":
        device = torch.cuda.get_device_properties(bench.device)
        free, total = torch.cuda.mem_get_info(bench.device)
        found |= {
            "device": device.name,
            "capability": f"{device.major}.{device.minor}",
            "multiprocessors": device.multi_processor_count,
            "memory_GB": round(total / 1e9, 2),
            "free_GB": round(free / 1e9, 2),
            "cudnn": torch.backends.cudnn.version(),
            "tf32": attempt(tf32),
            "fp8_matmul": attempt(lambda: has_fp8_matmuls(bench.device)),
            "driver_power_clocks": attempt(driver),
        }
    return found


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def tf32() -> dict[str, bool]:
    return {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32}


def driver() -> str:
    return subprocess.run(DRIVER, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


@torch.inference_mode()
def rates(bench: Bench) -> dict[str, Any]:
    """TFLOP/s of a large matmul; GB/s of copies: on the device (bytes read plus written), and from host memory that is
    pageable, pinned by torch, or registered like that of the streamed blocks."""
    size, count = (8192, 2**30) if not is_cpu(bench.device) else (512, 2**22)
    found: dict[str, Any] = {"matmul_size": size, "copy_bytes": count}
    found["matmul_TFLOP_per_second"] = attempt(lambda: matmul(bench, size))
    there = torch.empty(count, dtype=torch.uint8, device=bench.device)
    found["device_copy_GB_per_second"] = attempt(lambda: 2 * copies(bench, there, there.clone()))
    host = torch.ones(count, dtype=torch.uint8)
    found["pageable_to_device_GB_per_second"] = attempt(lambda: copies(bench, there, host))
    found["device_to_pageable_GB_per_second"] = attempt(lambda: copies(bench, host, there))
    if bench.device.type == "cuda":
        found["registered_to_device_GB_per_second"] = attempt(lambda: registered(bench, there, host))
        found["pinned_to_device_GB_per_second"] = attempt(lambda: copies(bench, there, host.pin_memory()))
    return found


def matmul(bench: Bench, size: int) -> float:
    a, b, out = (torch.randn(size, size, device=bench.device).to(bench.dtype) for _ in range(3))
    seconds = best_of(bench, lambda: torch.mm(a, b, out=out))
    bench.matmul_rate = 2 * size**3 / seconds
    return round(bench.matmul_rate / 1e12, 3)


def copies(bench: Bench, target: torch.Tensor, source: torch.Tensor) -> float:
    repeats = REPEATS if target.device == source.device else REPEATS // 5
    seconds = best_of(bench, lambda: target.copy_(source, non_blocking=True), repeats)
    return round(source.nbytes / seconds / 1e9, 2)


def registered(bench: Bench, target: torch.Tensor, host: torch.Tensor) -> float:
    transfer = CudaTransfer(bench.device)
    transfer.prepare(host)
    try:
        return copies(bench, target, host)
    finally:
        transfer.close()


def best_of(bench: Bench, work: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Seconds of one call: the best of three measurements of many calls."""
    work()
    return min(seconds_of(lambda: [work() for _ in range(repeats)], bench.device)[0] for _ in range(3)) / repeats
