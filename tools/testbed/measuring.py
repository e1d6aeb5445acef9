"""Measures seconds and memory: paths interleaved, phases in sequence."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

FAKE = "fake"  # the device of fake_device.py, which needs torch's private API: imported only where used
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def is_cpu(device: torch.device | str) -> bool:
    return torch.device(device).type == "cpu"


def wait(device: torch.device | str) -> None:
    """Waits until the device has finished its queue."""
    if not is_cpu(device):
        device_module(device).synchronize(device)


def seconds_of(work: Callable[[], Any], device: torch.device | str = "cpu") -> tuple[float, float]:
    """Wall and CPU seconds; on a shared machine the latter is more reliable."""
    wait(device)
    start, used = time.perf_counter(), time.process_time()
    work()
    wait(device)
    return time.perf_counter() - start, time.process_time() - used


def in_turn(paths: dict[str, Callable[[], Any]], runs: int, device: torch.device | str = "cpu") -> dict[str, dict]:
    """Runs each path once to warm up, then all of them `runs` times, interleaved, so that disturbances affect all
    alike."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in paths}
    for work in paths.values():
        work()
    for _ in range(runs):
        for name, work in paths.items():
            found[name].append(seconds_of(work, device))
    return {name: summary(seconds, device) for name, seconds in found.items()}


def summary(seconds: list[tuple[float, float]], device: torch.device | str) -> dict[str, Any]:
    """All runs, the best and the median; on a CPU also the CPU seconds."""
    clock, used = ([round(s, 4) for s in column] for column in zip(*seconds, strict=True))
    found = {"seconds": clock, "best": min(clock), "median": round(statistics.median(clock), 4)}
    if is_cpu(device):
        found |= {"cpu_seconds": used, "cpu_best": min(used), "cpu_median": round(statistics.median(used), 4)}
    return found


class Phases:
    """Seconds and peak memory of the phases of a run, by name; on the fake device operations instead of seconds."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.device, self.found = torch.device(device), {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        """Runs one phase and returns its result."""
        results = []
        reset_peak(self.device)
        seconds, used = seconds_of(lambda: results.append(work()), self.device)
        self.found[name] = {"seconds": round(seconds, 4), "peak_GB": peak_gb(self.device)}
        if is_cpu(self.device):
            self.found[name]["cpu_seconds"] = round(used, 4)
        if self.device.type == FAKE:
            counted = torch.fake.counted()
            self.found[name] = {"peak_GB": peak_gb(self.device), **counted}
        return results[0]


def device_module(device: torch.device | str) -> ModuleType:
    """torch's module of a device. `torch.get_device_module` would remember that of a fake device that has closed."""
    return getattr(torch, torch.device(device).type)


def reset_peak(device: torch.device | str) -> None:
    if not is_cpu(device):
        device_module(device).reset_peak_memory_stats(device)
    elif CLEAR.exists():
        CLEAR.write_text("5")


def peak_gb(device: torch.device | str) -> float | None:
    """Peak since `reset_peak`: allocated memory of a GPU, or resident memory of the process on a CPU (Linux only)."""
    if not is_cpu(device):
        return round(device_module(device).max_memory_allocated(device) / 1e9, 3)
    if not CLEAR.exists():
        return None
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return round((int(line.split()[1]) << 10) / 1e9, 3)


def machine(device: torch.device | str, dtype: torch.dtype) -> dict[str, Any]:
    """Describes the machine of a measurement in general terms."""
    device = torch.device(device)
    name = processor() if is_cpu(device) else device_module(device).get_device_name(device)
    return {"device": name, "threads": torch.get_num_threads(), "dtype": str(dtype)[6:], "torch": torch.__version__}


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def report(result: dict[str, Any], path: Path | None = None) -> None:
    """Prints the result as the last line, in JSON, and writes it to a readable file if there is a path."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result) + "\n")
