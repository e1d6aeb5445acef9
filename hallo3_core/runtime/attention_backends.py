"""The denoiser's attention kernel: the fastest exact one by measurement, or the one that was asked for.

Self-attention reads tens of thousands of keys and takes nearly half of a step. Face and audio attention read 4 and 32
and use torch's own choice. So only self-attention is measured, at the run's own size.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import InputError, require
from ..model.attention import Attention, scaled_dot_product
from ..model.config import Grid, TransformerConfig

AUTO, TORCH, SAGE = "auto", "torch", "sage"
_SDPA = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_FA3, _FA3_MODULE = "fa3", "flash_attn_interface"
CHOICES = (AUTO, TORCH, *_SDPA, _FA3, SAGE)
# Largest relative root-mean-square error: from rounding alone, and from 8-bit scores.
ROUNDING = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
SAGE_ERROR = 0.1
COMPARED = 256  # queries compared, evenly spread: the exact result for all would not fit in memory
RUNS = 3
SCORES_AT_ONCE = 2**28  # scores computed at once: half a gigabyte in half precision

Stopwatch = Callable[[Callable[[], Tensor]], float]  # seconds that a call takes, including the device's work

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backend:
    """An attention function and its name on the command line."""

    name: str
    attention: Attention


def choose_attention(
    choice: str,
    config: TransformerConfig,
    grid: Grid,
    *,
    batch: int,
    device: torch.device | str,
    dtype: torch.dtype,
) -> Attention:
    """The attention function for a denoiser of these sizes; `batch` model calls are computed together.

    "auto" measures on CUDA and leaves the choice to torch elsewhere. If torch has no fused kernel (Macs, some AMD
    GPUs), queries are processed in chunks, because the scores of all of them would take 30 GB.

    Raises:
        InputError: an unknown choice, a missing package, or a kernel that does not work here.
    """
    check_attention(choice, device)
    if choice == TORCH or (choice == AUTO and not _is_cuda(device)):
        return in_pieces if torch.device(device).type == "mps" else scaled_dot_product
    if choice == SAGE:
        return for_long_keys(Checked(sage_attention(), checks=config.layers, name=SAGE))
    backends = gpu_backends() if choice == AUTO else [_named(choice)]
    sample = sample_inputs(config, grid, batch, device, dtype)
    best = fastest(backends, sample, seconds_on(device))
    if best is None and choice != AUTO:
        raise InputError(
            f"attention {choice!r} does not work here in {_name(dtype)} with heads of {config.head}: choose auto"
        )
    return for_long_keys(best.attention if best else in_pieces)


def check_attention(choice: str, device: torch.device | str) -> None:
    """Checks a choice before anything is loaded.

    Raises:
        InputError: an unknown choice, a missing package, or a device that the kernel does not support.
    """
    if choice not in CHOICES:
        raise InputError(f"attention is {choice!r}: choose one of {', '.join(CHOICES)}")
    if choice not in (AUTO, TORCH) and not _is_cuda(device):
        raise InputError(f"attention {choice!r} is for CUDA devices, this is {device}: choose auto or torch")
    if choice == _FA3:
        flash_attention_3()
    if choice == SAGE:
        sage_attention()


def gpu_backends() -> list[Backend]:
    """The candidates of auto: torch's kernels except the slow exact one, and FlashAttention 3 if it is installed."""
    backends = [Backend(name, torch_backend(kind)) for name, kind in _SDPA.items() if kind != SDPBackend.MATH]
    if importlib.util.find_spec(_FA3_MODULE):
        try:
            backends.append(_named(_FA3))
        except InputError as error:
            log.warning("%s; left out", error)
    return backends


def torch_backend(kind: SDPBackend) -> Attention:
    """One kernel of torch's attention and no other: it raises if it does not support the input."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(kind):
            return F.scaled_dot_product_attention(q, k, v)

    return attention


def flash_attention_3() -> Attention:
    """FlashAttention 3, for Hopper GPUs.

    Raises:
        InputError: it is not installed, or was built for another torch.
    """
    if not importlib.util.find_spec(_FA3_MODULE):
        raise InputError("attention fa3 needs FlashAttention 3, which is not installed: build it from its source")
    try:
        package = importlib.import_module(_FA3_MODULE)
    except (ImportError, OSError) as error:
        raise InputError(f"FlashAttention 3 cannot be loaded ({error}): rebuild it for this torch") from error

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = package.flash_attn_func(*(x.transpose(1, 2) for x in (q, k, v)))
        out = out[0] if isinstance(out, tuple) else out  # older versions also return the log-sum-exp
        return out.transpose(1, 2)

    return attention


def sage_attention() -> Attention:
    """SageAttention, which rounds queries and keys to 8 bits.

    Raises:
        InputError: it is not installed.
    """
    package = require("sageattention", "sageattention", "attention sage")

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return package.sageattn(q, k, v, tensor_layout="HND", is_causal=False)

    return attention


def in_pieces(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's attention on one chunk of queries at a time: memory holds the scores of only one chunk."""
    count = max(1, SCORES_AT_ONCE // (q.shape[:-2].numel() * k.shape[-2]))
    if q.shape[-2] <= count:
        return scaled_dot_product(q, k, v)
    return torch.cat([scaled_dot_product(part, k, v) for part in q.split(count, dim=-2)], dim=-2)


def for_long_keys(attention: Attention, otherwise: Attention = scaled_dot_product) -> Attention:
    """`attention` if there are at least as many keys as queries, as in self-attention; `otherwise` for a few keys."""

    def chosen(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (attention if k.shape[-2] >= q.shape[-2] else otherwise)(q, k, v)

    return chosen


def sample_inputs(
    config: TransformerConfig, grid: Grid, batch: int, device: torch.device | str, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Random queries, keys and values of self-attention's size, seeded."""
    queries = config.text_tokens + grid.tokens
    keys = queries + grid.tokens_per_frame  # plus the portrait's
    draw = torch.Generator(device).manual_seed(0)

    def normal(count: int) -> Tensor:
        return torch.randn(batch, config.heads, count, config.head, generator=draw, device=device, dtype=dtype)

    return normal(queries), normal(keys), normal(keys)


def fastest(
    backends: Iterable[Backend], sample: tuple[Tensor, Tensor, Tensor], seconds: Stopwatch, runs: int = RUNS
) -> Backend | None:
    """The fastest backend that works on these inputs and is exact to rounding; None if there is none."""
    times: dict[str, float] = {}
    found: dict[str, Backend] = {}
    for backend in backends:

        def call(backend: Backend = backend) -> Tensor:
            return backend.attention(*sample)

        try:
            error = relative_error(call(), *sample)  # the first call is also the warm-up
            if not error <= ROUNDING[sample[0].dtype]:
                log.warning("attention %s is not exact here (error %.2g): not used", backend.name, error)
                continue
            times[backend.name] = min(seconds(call) for _ in range(runs))
            found[backend.name] = backend
        except (RuntimeError, ValueError, NotImplementedError, AssertionError) as refusal:
            log.info("attention %s does not work here: %s", backend.name, str(refusal).partition("\n")[0])
    if not times:
        return None
    best = min(times, key=times.get)
    log.info("attention %s, of %s", best, ", ".join(f"{name} {1000 * t:.2f} ms" for name, t in times.items()))
    return found[best]


def relative_error(found: Tensor, q: Tensor, k: Tensor, v: Tensor) -> float:
    """Root mean square error of an attention result relative to the exact one, on COMPARED of its queries.

    Infinite if values are not finite or the shape is wrong.
    """
    if found.shape != q.shape[:-1] + v.shape[-1:]:
        return float("inf")
    rows = torch.linspace(0, q.shape[-2] - 1, min(COMPARED, q.shape[-2]), device=q.device).round().long()
    exact = exact_attention(q[..., rows, :], k, v)
    error = (found[..., rows, :].float() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    return float(error) if torch.isfinite(error) else float("inf")


def exact_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by its definition, in float32, head by head."""
    result = torch.empty(*q.shape[:-1], v.shape[-1], device=q.device)
    for index in ((b, h) for b in range(q.shape[0]) for h in range(q.shape[1])):
        scores = q[index].float() @ k[index].float().T / q.shape[-1] ** 0.5
        result[index] = scores.softmax(dim=-1) @ v[index].float()
    return result


class Checked:
    """A lossy attention function that is checked on a run's own queries and keys.

    Its first `checks` results are compared with exact ones. If one is too far off, torch's function replaces it for
    good, with a warning. It has state, so every run makes its own.
    """

    def __init__(self, attention: Attention, checks: int, name: str, limit: float = SAGE_ERROR):
        self._attention, self._left, self._name, self._limit = attention, checks, name, limit
        # Otherwise each value of the counter would trigger a recompilation. (A decorator would import the compiler.)
        self._attend = torch.compiler.disable(self._attend)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self._attend(q, k, v)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self._attention(q, k, v) if self._left == 0 else self._compare(q, k, v)

    def _compare(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The result while checks remain; an exception counts as a bad result."""
        self._left -= 1
        try:
            result = self._attention(q, k, v)
            error = relative_error(result, q, k, v)
            reason = f"its error is {error:.2g} of the result, more than {self._limit:g}"
        except Exception as refusal:  # Triton's errors have no common class
            error, reason = float("inf"), str(refusal).partition("\n")[0]
        if error <= self._limit:
            return result
        log.warning("attention %s does not work here (%s): using torch's instead", self._name, reason)
        self._attention, self._left = scaled_dot_product, 0
        return scaled_dot_product(q, k, v)


def seconds_on(device: torch.device | str) -> Stopwatch:
    """A stopwatch that synchronises with the device."""

    def seconds(call: Callable[[], Tensor]) -> float:
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start

    return seconds


def _named(choice: str) -> Backend:
    return Backend(choice, flash_attention_3() if choice == _FA3 else torch_backend(_SDPA[choice]))


def _is_cuda(device: torch.device | str) -> bool:
    return torch.device(device).type == "cuda"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
