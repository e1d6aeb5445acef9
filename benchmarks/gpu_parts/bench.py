"""Shared by the parts: device, sizes, networks, and how a failure is recorded."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hallo3_core.model.denoiser import Denoiser
from hallo3_core.pipeline.conditions import stack
from hallo3_core.runtime.fallback import free_memory, is_out_of_memory
from hallo3_core.vae.autoencoder import VideoVae
from tools.testbed.measuring import is_cpu, peak_gb, reset_peak, seconds_of, summary
from tools.testbed.presets import PRESETS, Networks, build_networks, build_vae, conditions_of, draw_inputs, twin

CALLS = (1, 2, 4)  # numbers of model calls per step to measure
TIMESTEP = 500.0


class Bench:
    """Sizes, device and dtype of all parts; networks are made on first use and kept until `free`."""

    def __init__(self, preset: str, device: str, dtype: torch.dtype):
        self.preset, self.sizes = preset, PRESETS[preset]
        self.device, self.dtype = torch.device(device), dtype
        self.matmul_rate: float | None = None  # operations per second, once `rates` has measured it
        self._steps: Steps | None = None
        self._vae: VideoVae | None = None

    @property
    def is_full(self) -> bool:
        return self.preset == "full"

    @property
    def steps(self) -> Steps:
        if self._steps is None:
            self._vae = None
            free_memory()
            self._steps = Steps(self)
        return self._steps

    @property
    def vae(self) -> VideoVae:
        if self._vae is None:
            self._steps = None
            free_memory()
            self._vae = build_vae(self.sizes, self.device, self.dtype)
        return self._vae

    def free(self) -> None:
        self._steps = self._vae = None
        free_memory()

    def held_gb(self) -> float | None:
        """Memory of the tensors on the device now."""
        if is_cpu(self.device):
            return None
        return round(torch.get_device_module(self.device).memory_allocated(self.device) / 1e9, 3)

    def timed(self, work: Callable[[], Any], runs: int) -> dict[str, Any]:
        """Seconds of a first call, which selects kernels, then of `runs` more, and their peak memory."""
        first, _ = seconds_of(work, self.device)
        return {"first_call": round(first, 4), **self.in_turn({"work": work}, runs)["work"]}

    def in_turn(self, paths: dict[str, Callable[[], Any]], runs: int) -> dict[str, dict[str, Any]]:
        """Seconds and peak memory of each path, interleaved, `runs` times; each must be warm already."""
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in paths}
        memory: dict[str, dict[str, float | None]] = {}
        for _ in range(runs):
            for name, work in paths.items():
                held = self.held_gb()
                reset_peak(self.device)
                seconds[name].append(seconds_of(work, self.device))
                peak = peak_gb(self.device)
                activations = None if held is None else round(peak - held, 3)
                memory[name] = {"peak_GB": peak, "activations_GB": activations}
        return {name: summary(seconds[name], self.device) | memory[name] for name in paths}


class Steps:
    """A denoiser at the trained grid with everything constant over a clip precomputed, to time its steps."""

    def __init__(self, bench: Bench):
        sizes, device, dtype = bench.sizes, bench.device, bench.dtype
        networks: Networks = build_networks(sizes, device, dtype)
        self.denoiser = denoiser = networks.denoiser
        samples = [draw_inputs(sizes, device, dtype, seed) for seed in range(max(CALLS))]
        first = conditions_of(networks, samples[:1])
        audio = [denoiser.audio_keys_values(networks.audio(each.audio)) for each in samples]
        text = [denoiser.embed_text(each.text) for each in samples]
        self._conditions = {n: replace(first, text=torch.cat(text[:n]), audio=stack(audio[:n])) for n in CALLS}
        self._modulation = denoiser.modulate_steps(torch.tensor([TIMESTEP], device=device), dtype)
        self._layout = denoiser.layout(sizes.denoiser.grid, dtype)
        self._latent, self._concat = samples[0].latent, samples[0].concat

    def batched(self, calls: int, denoiser: Denoiser | None = None) -> Callable[[], Tensor]:
        """A step whose model calls are batched, by this denoiser or by another with the same inputs."""
        latent = self._latent.expand(calls, -1, -1, -1, -1)
        computing = denoiser or self.denoiser
        return lambda: computing(latent, self._concat, self._conditions[calls], self._modulation, self._layout)

    def in_turn(self, calls: int) -> Callable[[], list[Tensor]]:
        """A step whose model calls are computed one after another."""
        one = self.batched(1)
        return lambda: [one() for _ in range(calls)]

    def twin(self) -> Denoiser:
        """A second denoiser that shares the weights."""
        return twin(self.denoiser)


def attempt(work: Callable[[], Any]) -> Any:
    """The result of `work`, or its error and location in one line. Frees the memory of a failed attempt."""
    try:
        return work()
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[-5:]
        failure = {
            "error": one_line(error),
            "out_of_memory": is_out_of_memory(error),
            "where": [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames],
        }
    with suppress(Exception):  # after an illegal access every CUDA call fails
        free_memory()  # the exception is gone here, with all that its traceback held
    return failure


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:400]


@contextmanager
def without_tf32() -> Iterator[None]:
    """Computes float32 convolutions in float32: cuDNN's default rounds their inputs to 10 bits of mantissa."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Root mean square of the difference, relative to that of `exact`; computed in float64 on the CPU."""
    found, exact = found.cpu().double(), exact.cpu().double()
    return float(f"{float((found - exact).norm() / exact.norm()):.3g}")
