"""The choice of an attention kernel: the fastest exact one; lossy ones are checked against exact results."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from hallo3_core.errors import InputError
from hallo3_core.model.attention import scaled_dot_product
from hallo3_core.runtime import attention_backends
from hallo3_core.runtime.attention_backends import (
    CHOICES,
    ROUNDING,
    Backend,
    Checked,
    choose_attention,
    exact_attention,
    fastest,
    for_long_keys,
    gpu_backends,
    relative_error,
    sage_attention,
    sample_inputs,
    torch_backend,
)
from hallo3_core.toy.noise_release import CONFIG
from hallo3_core.vae.latents import film_grid
from tests.noise import noise


class Clock:
    """A clock that only the attention functions move."""

    def __init__(self):
        self.now = 0.0

    def seconds(self, call) -> float:
        start = self.now
        call()
        return self.now - start

    def backend(self, name, cost, attention=scaled_dot_product) -> Backend:
        def timed(q, k, v):
            self.now += cost
            return attention(q, k, v)

        return Backend(name, timed)


def in_fp8(q, k, v):
    """A mildly lossy kernel: 8-bit queries and keys with one scale per tensor."""

    def rounded(x):
        scale = x.abs().amax() / 127
        return (x / scale).round() * scale

    return scaled_dot_product(rounded(q), rounded(k), v)


def wrong(q, k, v):
    return scaled_dot_product(q, k, v.flip(-2))


def refuses(q, k, v):
    raise RuntimeError("No available kernel. Aborting execution.")


def fails(q, k, v):
    raise Exception("a compiler's own error")  # not of a specific exception class


@pytest.fixture
def sample():
    return noise(2, 3, 40, 16), noise(2, 3, 50, 16, seed=1), noise(2, 3, 50, 16, seed=2)


def test_the_quickest_exact_one_is_chosen(sample, caplog):
    clock = Clock()
    backends = [
        clock.backend("slow", 5.0),
        clock.backend("lossy", 0.1, in_fp8),
        clock.backend("wrong", 0.2, wrong),
        clock.backend("refuses", 0.0, refuses),
        clock.backend("quick", 1.0),
        clock.backend("middling", 2.0),
    ]
    assert fastest(backends, sample, clock.seconds).name == "quick"
    assert "attention lossy is not exact here" in caplog.text and "attention wrong is not exact here" in caplog.text


def test_if_no_kernel_works_none_is_chosen(sample):
    clock = Clock()
    assert fastest([clock.backend("wrong", 1, wrong), clock.backend("no", 1, refuses)], sample, clock.seconds) is None


def test_the_best_of_several_runs_counts(sample):
    """A single slow run, for example due to another program, does not decide."""
    clock, costs = Clock(), iter([9.0, 9.0, 1.0, 1.0])  # to warm up, then three runs

    def uneven(q, k, v):
        clock.now += next(costs)
        return scaled_dot_product(q, k, v)

    assert fastest([clock.backend("even", 2.0), Backend("uneven", uneven)], sample, clock.seconds).name == "uneven"


@pytest.mark.parametrize("dtype", ROUNDING)
def test_rounding_passes_and_fp8_do_not(sample, dtype):
    inputs = [x.to(dtype) for x in sample]
    assert relative_error(scaled_dot_product(*inputs), *inputs) <= ROUNDING[dtype]
    if dtype != torch.bfloat16:  # whose own rounding is of that size
        assert relative_error(in_fp8(*inputs), *inputs) > ROUNDING[dtype]
    assert relative_error(torch.full_like(inputs[0], float("nan")), *inputs) == float("inf")
    assert relative_error(inputs[0][:1], *inputs) == float("inf")


def test_the_formula_is_attention(sample):
    assert torch.allclose(exact_attention(*sample), scaled_dot_product(*sample), atol=1e-6)


def test_a_kernel_can_be_named_and_no_other_steps_in(sample):
    from torch.nn.attention import SDPBackend

    assert torch.allclose(torch_backend(SDPBackend.MATH)(*sample), scaled_dot_product(*sample), atol=1e-6)
    with pytest.raises(RuntimeError):
        torch_backend(SDPBackend.CUDNN_ATTENTION)(*sample)  # there is none on a CPU


def test_few_keys_stay_with_torch(sample):
    q, k, v = sample
    attention = for_long_keys(lambda q, k, v: torch.zeros_like(q))
    assert not attention(q, k, v).any()
    assert torch.equal(attention(q, k[:, :, :4], v[:, :, :4]), scaled_dot_product(q, k[:, :, :4], v[:, :, :4]))


def test_the_chosen_function_compiles_without_a_break(sample):
    from torch.nn.attention import SDPBackend

    attention = for_long_keys(torch_backend(SDPBackend.MATH))
    compiled = torch.compile(attention, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(*sample), scaled_dot_product(*sample), atol=1e-6)


def choose(choice, device="cpu", **kw):
    kwargs = dict(batch=2, device=device, dtype=torch.float32) | kw
    return choose_attention(choice, CONFIG, CONFIG.grid, **kwargs)


def test_on_a_cpu_torch_decides():
    assert choose("auto") is scaled_dot_product and choose("torch") is scaled_dot_product


@pytest.mark.parametrize("choice", [c for c in CHOICES if c not in ("auto", "torch")])
def test_a_gpu_kernel_is_refused_elsewhere(choice):
    with pytest.raises(InputError, match=f"attention '{choice}' is for CUDA devices, this is cpu"):
        choose(choice)


def test_no_such_choice():
    with pytest.raises(InputError, match="attention is 'fastest': choose one of auto, torch, cudnn"):
        choose("fastest")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sageattention", None)
    with pytest.raises(InputError, match="python -m pip install sageattention"):
        choose("sage", "cuda")
    with pytest.raises(InputError, match="needs FlashAttention 3, which is not installed"):
        choose("fa3", "cuda", dtype=torch.bfloat16)


def test_a_package_built_for_another_torch_is_left_out(monkeypatch, tmp_path, caplog):
    (tmp_path / "flash_attn_interface.py").write_text("raise ImportError('undefined symbol: _ZN3c10')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn_interface", raising=False)
    names = [backend.name for backend in gpu_backends()]
    assert "flash" in names and "fa3" not in names
    assert (
        "FlashAttention 3 cannot be loaded (undefined symbol: _ZN3c10): rebuild it for this torch; left out"
        in caplog.text
    )
    with pytest.raises(InputError, match="FlashAttention 3 cannot be loaded.*build it for this torch"):
        choose("fa3", "cuda", dtype=torch.bfloat16)


def test_the_sample_is_of_self_attentions_size():
    grid = film_grid(96, 144, CONFIG)
    q, k, v = sample_inputs(CONFIG, grid, 2, "cpu", torch.float32)
    assert grid == CONFIG.grid
    assert q.shape == (2, 4, 226 + 13 * 54, 16) and k.shape == v.shape == (2, 4, 226 + 14 * 54, 16)


# Checks of lossy kernels


def test_a_lossy_one_that_is_good_enough_stays(sample, caplog):
    calls = []

    def counted(q, k, v):
        calls.append(1)
        return in_fp8(q, k, v)

    checked = Checked(counted, checks=2, name="sage")
    for _ in range(5):
        assert torch.equal(checked(*sample), in_fp8(*sample))
    assert len(calls) == 5 and not caplog.records


@pytest.mark.parametrize("attention", [wrong, refuses, fails, lambda q, k, v: q * float("nan")])
def test_one_that_is_not_is_replaced_with_a_warning(sample, caplog, attention):
    checked = Checked(attention, checks=2, name="sage")
    for _ in range(3):
        assert torch.equal(checked(*sample), scaled_dot_product(*sample))
    assert len(caplog.records) == 1
    assert "attention sage does not work here" in caplog.text and "using torch's instead" in caplog.text


def test_comparing_makes_no_compiled_code_anew(sample):
    """The counter of checks causes no recompilation: 14 layers compile only the code before and after the check."""
    torch._dynamo.reset()
    compiled, checked = [], Checked(in_fp8, checks=14, name="sage")

    def keep(graph, inputs):
        compiled.append(graph)
        return graph.forward

    layer = torch.compile(lambda q, k, v: checked(q * 2, k, v) + 1, backend=keep)
    for _ in range(16):
        layer(*sample)
    torch._dynamo.reset()
    assert len(compiled) == 2  # before and after the check


def test_every_layer_of_the_first_model_call_is_compared(sample, caplog):
    """A kernel that fails only in the last layer is detected. After that, no results are compared."""
    calls = []

    def late(q, k, v):
        calls.append(1)
        return (wrong if len(calls) == 3 else in_fp8)(q, k, v)

    checked = Checked(late, checks=3, name="sage")
    results = [checked(*sample) for _ in range(4)]
    assert torch.equal(results[1], in_fp8(*sample))
    assert torch.equal(results[2], scaled_dot_product(*sample)) and torch.equal(results[3], results[2])
    assert len(calls) == 3


def test_sage_gets_our_layout(sample, monkeypatch):
    package = ModuleType("sageattention")

    def sageattn(q, k, v, tensor_layout="HND", is_causal=False):
        assert tensor_layout == "HND" and not is_causal
        return in_fp8(q, k, v)

    package.sageattn = sageattn
    monkeypatch.setitem(sys.modules, "sageattention", package)
    assert torch.equal(sage_attention()(*sample), in_fp8(*sample))


@pytest.mark.parametrize("at_once", [1, 200, 2**28])
def test_queries_in_pieces_give_the_same(monkeypatch, at_once):
    monkeypatch.setattr(attention_backends, "SCORES_AT_ONCE", at_once)
    q, k, v = (torch.randn(2, 3, n, 8) for n in (7, 11, 11))
    assert torch.allclose(attention_backends.in_pieces(q, k, v), scaled_dot_product(q, k, v), atol=1e-6)
