"""How exact each kernel is, on blocks small enough for float64 on the CPU.

An error is the root mean square of the difference from float64, relative to that of the result. Next to it is the error
of torch's own code on the CPU in that dtype, or the limit that the project sets for the kernel.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_parts.bench import TIMESTEP, Bench, attempt, relative_error, without_tf32
from hallo3_core.model.attention import Attention, scaled_dot_product
from hallo3_core.model.scaled import ScaledLinear
from hallo3_core.runtime.attention_backends import SAGE_ERROR, sage_attention
from hallo3_core.runtime.compiling import compile_blocks
from hallo3_core.runtime.fp8_matmul import round_rows, use_fp8_matmuls
from hallo3_core.runtime.streaming import streamed
from hallo3_core.vae import causal_conv
from hallo3_core.vae.causal_conv import CausalConv
from hallo3_core.weights.fp8 import quantise
from tools.testbed.presets import PRESETS, Inputs, Networks, build_networks, conditions_of, draw_inputs, round_to_fp8

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
TOY = PRESETS["toy"]
# The released head size of 64, in few and narrow layers.
SMALL = replace(TOY, denoiser=replace(TOY.denoiser, hidden=256, mlp=1024, time=256, layers=3))


# Largest relative error from rounding alone.
ROUNDING = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
SDPA = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def kernels() -> dict[str, Callable[[], Attention]]:
    """torch's own choice, each of torch's kernels alone, and sage, by name."""
    own = {name: lambda kind=kind: torch_kernel(kind) for name, kind in SDPA.items()}
    return {"torch": lambda: scaled_dot_product, **own, "sage": sage_attention}


def torch_kernel(kind: SDPBackend) -> Attention:
    """One kernel of torch's attention and no other: it raises if it does not support the input."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(kind):
            return scaled_dot_product(q, k, v)

    return attention


@torch.inference_mode()
def attention(bench: Bench) -> dict[str, Any]:
    """Errors for 300 queries and 340 keys, by kernel and dtype; if a kernel raises, the error message is its result."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, n, 64, generator=draw) for n in (300, 340, 340))
    found: dict[str, Any] = {}
    for name, make in kernels().items():
        kernel = attempt(make)
        if not callable(kernel):
            found[name] = kernel["error"]
            continue
        found[name] = {}
        for dtype in DTYPES:
            inputs = [x.to(dtype) for x in (q, k, v)]
            exact = F.scaled_dot_product_attention(*(x.double() for x in inputs))
            limit = SAGE_ERROR if name == "sage" else ROUNDING[dtype]

            def error(inputs: list[Tensor] = inputs, exact: Tensor = exact, limit: float = limit) -> dict[str, Any]:
                error = relative_error(kernel(*(x.to(bench.device) for x in inputs)), exact)  # noqa: B023
                return {"error": error, "limit": limit, "exact": error <= limit}

            result = attempt(error)
            found[name][name_of(dtype)] = result if "exact" in result else result["error"]
    return found


@torch.inference_mode()
def fp8_matmul(bench: Bench) -> dict[str, Any]:
    """Errors of one layer with dequantised fp8 weights and with fp8 matmuls, against an exact layer with the same
    rounded weights; `lossy` is the error from rounding the input."""
    draw = torch.Generator().manual_seed(0)
    layer = ScaledLinear(256, 512, dtype=torch.bfloat16)
    layer.weight.data, layer.weight_scale.data = quantise(torch.randn(512, 256, generator=draw) / 16)
    layer.bias.data = torch.randn(512, generator=draw).bfloat16()
    x = (torch.randn(3, 100, 256, generator=draw) * torch.logspace(-2, 2, 100)[:, None]).bfloat16()
    weight, bias = layer.weight.double() * layer.weight_scale.double(), layer.bias.double()
    rows, scale = round_rows(x.reshape(-1, 256))
    rounded = (rows.double() * scale.double()).view(x.shape)
    of_rounded, exact = F.linear(rounded, weight, bias), F.linear(x.double(), weight, bias)
    there = nn.Sequential(copy.deepcopy(layer)).to(bench.device)
    x = x.to(bench.device)
    found: dict[str, Any] = {"limit": ROUNDING[torch.bfloat16]}
    found["weights"] = attempt(lambda: relative_error(there(x), exact))
    there_rows = attempt(lambda: round_rows(x.reshape(-1, 256))[0].cpu())
    same = isinstance(there_rows, Tensor) and there_rows.view(torch.uint8).equal(rows.view(torch.uint8))
    found["rows_rounded_as_on_the_cpu"] = same if isinstance(there_rows, Tensor) else there_rows
    use_fp8_matmuls(there)
    found["matmuls"] = attempt(lambda: relative_error(there(x), of_rounded))
    found["lossy"] = attempt(lambda: relative_error(there(x), exact))
    return found


@torch.inference_mode()
def conv(bench: Bench) -> dict[str, Any]:
    """Errors of the VAE's causal convolution, whole and in chunks of frames, with and without cached earlier frames."""
    draw = torch.Generator().manual_seed(0)
    own = nn.Conv3d(32, 64, 3, padding=(0, 1, 1)).requires_grad_(False)
    own.weight.data = torch.randn(own.weight.shape, generator=draw) / 30
    frames, before = torch.randn(1, 32, 7, 20, 24, generator=draw), torch.randn(1, 32, 2, 20, 24, generator=draw)

    def error(dtype: torch.dtype, cache: Tensor | None, values: int, device: torch.device) -> float:
        layer = copy.deepcopy(own).to(dtype)
        x, cache = frames.to(dtype), None if cache is None else cache.to(dtype)
        first = x[:, :, :1].expand(-1, -1, 2, -1, -1) if cache is None else cache
        exact = copy.deepcopy(layer).double()(torch.cat((first, x), dim=2).double())
        layer = layer.to(device)
        layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last_3d)
        with patch.object(causal_conv, "MAX_INPUT", values):
            out, _ = CausalConv(layer)(x.to(device), None if cache is None else cache.to(device))
        return relative_error(out, exact)

    variants = {"whole": 2**27, "in pieces": 5 * frames[:, :, 0].numel()}
    caches = {"first frame": None, "cache": before}

    def errors(dtype: torch.dtype) -> dict[str, Any]:
        return {
            f"{variant}, {name}": {
                "error": attempt(lambda c=cache, v=values: error(dtype, c, v, bench.device)),
                "cpu_error": attempt(lambda c=cache, v=values: error(dtype, c, v, torch.device("cpu"))),
            }
            for variant, values in variants.items()
            for name, cache in caches.items()
        }

    found = {name_of(dtype): errors(dtype) for dtype in DTYPES}
    with without_tf32():
        return found | {"float32 without TF32": errors(torch.float32)}


@torch.inference_mode()
def denoiser(bench: Bench) -> dict[str, Any]:
    """Two model calls of a three-layer denoiser with the released head size, on the device and on the CPU, plain and
    with fp8 weights and matmuls; and whether streamed blocks give bit-identical results to resident ones."""
    networks, samples = build_networks(SMALL, dtype=torch.bfloat16), two_samples()
    exact = velocity(cast(networks, "cpu", torch.float64), samples)
    found: dict[str, Any] = {}
    for dtype in DTYPES:
        errors = {
            "error": attempt(lambda d=dtype: relative_error(velocity(cast(networks, bench.device, d), samples), exact)),
            "cpu_error": attempt(lambda d=dtype: relative_error(velocity(cast(networks, "cpu", d), samples), exact)),
            "streamed_equals_resident": attempt(lambda d=dtype: streams_equal(networks, samples, bench.device, d)),
        }
        found[name_of(dtype)] = errors
    rounded = replace(networks, denoiser=round_to_fp8(networks.denoiser))
    of_rounded = velocity(cast(rounded, "cpu", torch.float64), samples)
    there = cast(rounded, bench.device, torch.bfloat16)
    found["fp8 weights"] = {
        "error": attempt(lambda: relative_error(velocity(there, samples), of_rounded)),
        "lossy": attempt(lambda: relative_error(velocity(there, samples), exact)),
    }
    use_fp8_matmuls(there.denoiser)
    found["fp8 matmuls"] = {"lossy": attempt(lambda: relative_error(velocity(there, samples), exact))}
    return found


@torch.inference_mode()
def compiled(bench: Bench) -> dict[str, Any]:
    """The same denoiser with compiled blocks; two layers, because middle blocks and the last one are compiled
    separately."""
    sizes = replace(SMALL, denoiser=replace(SMALL.denoiser, layers=2))
    networks, samples = build_networks(sizes, dtype=torch.bfloat16), two_samples(sizes)
    exact = velocity(cast(networks, "cpu", torch.float64), samples)
    there = cast(networks, bench.device, bench.dtype)
    eager = relative_error(velocity(there, samples), exact)
    compile_blocks(there.denoiser)
    return {"eager_error": eager, "error": attempt(lambda: relative_error(velocity(there, samples), exact))}


def two_samples(sizes=SMALL) -> list[Inputs]:
    return [draw_inputs(sizes, dtype=torch.bfloat16, seed=seed) for seed in (1, 2)]


def cast(networks: Networks, device: torch.device | str, dtype: torch.dtype) -> Networks:
    """Copies networks to a device and dtype. fp8 weights stay fp8, which `to` would convert."""
    own = copy.deepcopy(networks)
    for module in (own.denoiser, own.audio, own.face):
        for parameter in module.parameters():
            kept = parameter.dtype == torch.float8_e4m3fn or parameter.ndim == 0
            parameter.data = parameter.data.to(device, None if kept else dtype)
    return own


def velocity(networks: Networks, samples: list[Inputs], stream_to: torch.device | None = None) -> Tensor:
    """The velocity of two samples; with `stream_to` the denoiser's blocks are streamed to that device."""
    denoiser, place = networks.denoiser, networks.denoiser.video_positions
    device, dtype = stream_to or place.device, place.dtype

    def there(value: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        return [there(each) for each in value] if isinstance(value, list) else value.to(device, dtype)

    moved = [Inputs(**{field.name: there(getattr(each, field.name)) for field in fields(Inputs)}) for each in samples]
    with streamed(denoiser, device) if stream_to is not None else nullcontext():
        conditions = conditions_of(networks, moved)
        modulation = denoiser.modulate_steps(torch.tensor([TIMESTEP], device=device), dtype)
        layout = denoiser.layout(denoiser.config.grid, dtype)
        latent = torch.cat([each.latent for each in moved])
        return denoiser(latent, moved[0].concat, conditions, modulation, layout)


def streams_equal(networks: Networks, samples: list[Inputs], device: torch.device, dtype: torch.dtype) -> bool:
    resident = velocity(cast(networks, device, dtype), samples)
    other = cast(networks, "cpu", dtype)
    for module in (other.audio, other.face):
        module.to(device)
    return torch.equal(velocity(other, samples, device), resident)
