"""The choice of an attention kernel: torch's own; lossy ones are checked against exact results."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from hallo3_core.errors import InputError
from hallo3_core.model.attention import scaled_dot_product
from hallo3_core.runtime import attention_backends
from hallo3_core.runtime.attention_backends import (
    FORMER,
    Checked,
    choose_attention,
    exact_attention,
    for_long_keys,
    in_chunks,
    relative_error,
    sage_attention,
)
from hallo3_core.toy.noise_release import CONFIG
from tests.noise import noise

ROUNDING = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # largest relative error of an exact kernel


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


def test_few_keys_stay_with_torch(sample):
    q, k, v = sample
    attention = for_long_keys(lambda q, k, v: torch.zeros_like(q))
    assert not attention(q, k, v).any()
    assert torch.equal(attention(q, k[:, :, :4], v[:, :, :4]), scaled_dot_product(q, k[:, :, :4], v[:, :, :4]))


def test_the_chosen_function_compiles_without_a_break(sample):
    compiled = torch.compile(for_long_keys(scaled_dot_product), backend="eager", fullgraph=True)
    assert torch.allclose(compiled(*sample), scaled_dot_product(*sample), atol=1e-6)


def choose(choice, device="cpu"):
    return choose_attention(choice, CONFIG, device=device, dtype=torch.float32)


@pytest.mark.parametrize("choice", ["auto", "torch", *FORMER])
def test_torch_decides_also_where_a_kernel_of_its_own_was_named(choice):
    """A command line that named a kernel goes on, with torch's choice."""
    assert choose(choice) is scaled_dot_product


@pytest.mark.parametrize(("device", "fused"), [("cuda", True), ("cuda", False), ("mps", False)])
def test_queries_are_chunked_where_torch_has_no_fused_kernel(monkeypatch, device, fused):
    """The trial runs on the meta device here; without fused kernels torch refuses it."""
    seen = []

    def attend(q, k, v):
        seen.append((q.dtype, q.shape[-1]))
        if not fused:
            raise RuntimeError("No available kernel. Aborting execution.")

    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, device, dtype: zeros(*shape, device="meta", dtype=dtype))
    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    assert choose("auto", device) is (scaled_dot_product if fused else in_chunks)
    assert seen == [(torch.float32, CONFIG.head)] * (device == "cuda")


def test_sage_is_refused_elsewhere():
    with pytest.raises(InputError, match="attention 'sage' is for CUDA devices, this is cpu: choose auto"):
        choose("sage")


def test_no_such_choice():
    with pytest.raises(InputError, match="attention is 'fastest': choose one of auto, torch, sage"):
        choose("fastest")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sageattention", None)
    with pytest.raises(InputError, match="python -m pip install sageattention"):
        choose("sage", "cuda")


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
def test_queries_in_chunks_give_the_same(monkeypatch, at_once):
    monkeypatch.setattr(attention_backends, "SCORES_AT_ONCE", at_once)
    q, k, v = (torch.randn(2, 3, n, 8) for n in (7, 11, 11))
    assert torch.allclose(in_chunks(q, k, v), scaled_dot_product(q, k, v), atol=1e-6)
