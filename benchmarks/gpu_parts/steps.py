"""Seconds and memory of a step by mode, each against the same eager step of the same weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_parts.bench import CALLS, Bench, attempt, relative_error
from benchmarks.gpu_parts.exactness import kernels
from hallo3_core.model.denoiser import Denoiser
from hallo3_core.runtime.activations import activation_bytes
from hallo3_core.runtime.attention_backends import relative_error as attention_error
from hallo3_core.runtime.compiling import compile_blocks
from hallo3_core.runtime.fp8_matmul import use_fp8_matmuls
from hallo3_core.runtime.streaming import streamed
from tools.testbed.measuring import seconds_of
from tools.testbed.presets import round_to_fp8

RUNS = 2


@torch.inference_mode()
def attention(bench: Bench) -> dict[str, Any]:
    """Self-attention at the preset's size, two samples: milliseconds and error of each kernel except the slow one."""
    config = bench.sizes.denoiser
    queries = config.text_tokens + config.grid.tokens
    keys = queries + config.grid.tokens_per_frame  # plus the portrait's
    draw = torch.Generator(bench.device).manual_seed(0)
    place = dict(generator=draw, device=bench.device, dtype=bench.dtype)
    q, k, v = (torch.randn(2, config.heads, count, config.head, **place) for count in (queries, keys, keys))
    sample = (q, k, v)
    found: dict[str, Any] = {"shape": [list(q.shape), list(k.shape)]}
    operations = 4 * q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] * q.shape[3]

    def measure(kernel: Callable[[Tensor, Tensor, Tensor], Tensor]) -> dict[str, Any]:
        error = attention_error(kernel(*sample), *sample)
        seconds = min(seconds_of(lambda: [kernel(*sample) for _ in range(5)], bench.device)[0] for _ in range(3)) / 5
        rate = round(operations / seconds / 1e12, 2)
        return {"milliseconds": round(1000 * seconds, 3), "TFLOP_per_second": rate, "error": float(f"{error:.3g}")}

    for name, make in kernels().items():
        if name != "math":  # its score matrix does not fit on any GPU at full size
            found[name] = attempt(lambda make=make: measure(make()))
    return found


@torch.inference_mode()
def eager(bench: Bench) -> dict[str, Any]:
    """Steps of 1, 2 and 4 batched model calls: operations, their share of the matmul rate, and the step's memory next
    to the project's estimate (`activation_bytes`, including conditions)."""
    config = bench.sizes.denoiser
    found: dict[str, Any] = {"held_GB": attempt(lambda: (bench.steps, bench.held_gb())[1])}
    for calls in CALLS:

        def measure(calls: int = calls) -> dict[str, Any]:
            step = bench.steps.batched(calls)
            with FlopCounterMode(display=False) as counter:
                first, _ = seconds_of(step, bench.device)
            operations = counter.get_total_flops()
            row = {"first_call": round(first, 4), "TFLOP": round(operations / 1e12, 3)}
            row |= bench.in_turn({"step": step}, RUNS + (calls < 4))["step"]
            if bench.matmul_rate:
                row["matmul_rate_share"] = round(operations / bench.matmul_rate / row["best"], 3)
            reckoned = activation_bytes(config, config.grid, calls, bench.dtype)
            return row | {"reckoned_activations_GB": round(reckoned / 1e9, 3)}

        found[str(calls)] = attempt(measure)
    return found


@torch.inference_mode()
def one_by_one(bench: Bench) -> dict[str, Any]:
    """The two model calls of a step in sequence against batched, interleaved."""
    paths = {"together": bench.steps.batched(2), "in turn": bench.steps.in_turn(2)}
    for work in paths.values():
        work()
    return bench.in_turn(paths, RUNS)


@torch.inference_mode()
def fp8(bench: Bench) -> dict[str, Any]:
    """A step of two model calls with fp8 weights and with fp8 matmuls, interleaved with the eager one; the change of
    the result with these random weights; and the bytes of the weights."""
    rounded = round_to_fp8(bench.steps.denoiser)
    found: dict[str, Any] = {"weights_GB": {"eager": gigabytes(bench.steps.denoiser), "fp8": gigabytes(rounded)}}
    found["fp8 weights"] = attempt(lambda: against_eager(bench, rounded))
    use_fp8_matmuls(rounded)
    found["fp8 matmuls"] = attempt(lambda: against_eager(bench, rounded))
    return found


@torch.inference_mode()
def streams(bench: Bench) -> dict[str, Any]:
    """A step with the blocks in host memory, two on the device, interleaved with the resident one: `slower` is the cost
    of streaming at 1 and at 2 model calls; `equal`, whether the results are bit-identical."""
    other = bench.steps.twin()
    with ExitStack() as opened:
        seconds, _ = seconds_of(lambda: opened.enter_context(streamed(other, bench.device)), bench.device)
        slots = sum(slot.nbytes for slot in other.blocks.slots)
        found = {"seconds_to_prepare": round(seconds, 2), "blocks_on_the_device_GB": round(slots / 1e9, 3)}
        found["other_weights_GB"] = gigabytes(other)
        for calls in (1, 2):
            found[str(calls)] = attempt(lambda n=calls: against_eager(bench, other, n))
        return found


@torch.inference_mode()
def compiled(bench: Bench) -> dict[str, Any]:
    """A step of two model calls with compiled blocks, interleaved with the eager one; the first call compiles."""
    other = bench.steps.twin()
    compile_blocks(other)
    first, _ = seconds_of(bench.steps.batched(2, other), bench.device)
    return {"first_call": round(first, 2), **against_eager(bench, other)}


def against_eager(bench: Bench, other: Denoiser, calls: int = 2) -> dict[str, Any]:
    """Times both, interleaved, and compares the other's result with the eager one."""
    steps = {"eager": bench.steps.batched(calls), "other": bench.steps.batched(calls, other)}
    expected, result = (work() for work in steps.values())
    same = {"equal": torch.equal(result, expected), "difference": relative_error(result, expected)}
    found = bench.in_turn(steps, RUNS)
    return found | same | {"slower": round(found["other"]["best"] / found["eager"]["best"] - 1, 3)}


def gigabytes(denoiser: Denoiser) -> float:
    return round(sum(parameter.nbytes for parameter in denoiser.parameters()) / 1e9, 3)
