"""Where a step and a decoding spend their time, by torch's profiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_parts.bench import Bench
from benchmarks.gpu_parts.vae import clip_latent
from hallo3_core.vae.latents import decode_whole
from tools.testbed.measuring import seconds_of

ROWS = 25


@torch.inference_mode()
def step(bench: Bench) -> dict[str, Any]:
    """An eager step of two model calls."""
    return profiled(bench, bench.steps.batched(2))


@torch.inference_mode()
def vae(bench: Bench) -> dict[str, Any]:
    """Decoding a clip whole."""
    latent = clip_latent(bench)
    return profiled(bench, lambda: decode_whole(bench.vae, latent))


def profiled(bench: Bench, work: Callable[[], Any]) -> dict[str, Any]:
    """The kernels with the most device time, and the operations that launch them: milliseconds, calls, name."""
    activities = [ProfilerActivity.CPU]
    if bench.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    work()
    with profile(activities=activities) as profiler:
        seconds, _ = seconds_of(work, bench.device)
    kernels, operations = [], []
    for event in profiler.key_averages():
        on_device = event.device_type.name == "CUDA"
        micro = event.self_device_time_total if bench.device.type == "cuda" else event.self_cpu_time_total
        (kernels if on_device else operations).append((micro / 1000, event.count, event.key))
    busy = sum(row[0] for row in kernels or operations)
    return {
        "seconds": round(seconds, 4),
        "device_busy_seconds": round(busy / 1000, 4),
        "kernels": table(kernels),
        "operations": table(operations),
    }


def table(rows: list[tuple[float, int, str]]) -> list[str]:
    return [f"{ms:10.3f} ms {calls:6} x {name[:110]}" for ms, calls, name in sorted(rows, reverse=True)[:ROWS]]
