"""fp8 matmuls, as torch computes them on the CPU: correct, and as accurate as fp8 allows."""

from __future__ import annotations

import pytest
import torch

from hallo3_core.model.scaled import ScaledLinear
from hallo3_core.release.layout import Release
from hallo3_core.runtime.fp8_matmul import (
    Fp8MatmulLinear,
    has_fp8_matmuls,
    round_rows,
    use_fp8_matmuls,
)
from hallo3_core.weights import fp8, names
from tests.noise import noise


def _cpu_has_fp8_matmuls() -> bool:
    try:
        layer()(torch.ones(1, 64, dtype=torch.bfloat16))
    except NotImplementedError:
        return False
    return True


def layer(inputs=64, outputs=96, bias=True, kind=Fp8MatmulLinear):
    made = kind(inputs, outputs, bias=bias, dtype=torch.bfloat16)
    weight, scale = fp8.quantise(noise(outputs, inputs) / inputs**0.5)
    made.weight.data, made.weight_scale.data = weight, scale
    if bias:
        made.bias.data = noise(outputs, seed=1).bfloat16()
    return made


on_the_cpu = pytest.mark.skipif(not _cpu_has_fp8_matmuls(), reason="this torch has fp8 matmuls on CUDA alone")


def relative(found, exact):
    return float((found.float() - exact.float()).norm() / exact.float().norm())


@on_the_cpu
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_it_is_the_product_of_the_rounded(bias):
    """Besides the rounding of inputs and weights, the only error is the rounding of the result to bfloat16."""
    product, x = layer(bias=bias), noise(2, 5, 64, seed=2).bfloat16()
    rows, scale = round_rows(x.flatten(0, 1))
    exact = (rows.float() * scale) @ product.full_weight(torch.float32).T
    exact = exact + product.bias.float() if bias else exact
    found = product(x)
    assert found.shape == (2, 5, 96) and found.dtype == torch.bfloat16
    assert relative(found.flatten(0, 1), exact) < 4e-3
    assert torch.equal(product(x[0, 0]), found[0, 0])


@on_the_cpu
@torch.inference_mode()
def test_rounding_the_input_costs_what_three_bits_of_mantissa_cost():
    x = noise(300, 64, seed=2).bfloat16()
    exact, found = layer(kind=ScaledLinear)(x), layer()(x)
    assert 1e-3 < relative(found, exact) < 0.04  # a rounding of at most 2**-4 of each value, averaged over 64


@torch.inference_mode()
def test_rows_are_rounded_in_pieces_as_in_one(monkeypatch):
    x = noise(10, 64, seed=2).bfloat16()
    whole = round_rows(x)
    monkeypatch.setattr("hallo3_core.runtime.fp8_matmul.VALUES_AT_ONCE", 3 * 64)
    for found, expected in zip(round_rows(x), whole, strict=True):
        assert torch.equal(found.float(), expected.float())
    compiled = torch.compile(round_rows, backend="eager", fullgraph=True)
    assert all(torch.equal(a.float(), b.float()) for a, b in zip(compiled(x), whole, strict=True))


@on_the_cpu
@torch.inference_mode()
def test_a_large_row_costs_the_others_nothing():
    x = noise(4, 64, seed=2).bfloat16()
    loud = x.clone()
    loud[0] *= 1e4
    assert torch.equal(layer()(loud)[1:], layer()(x)[1:])


@torch.inference_mode()
def test_rows_come_back_and_zeros_stay():
    x = torch.cat((noise(3, 16) * torch.tensor([[1e-6], [1.0], [1e6]]), torch.zeros(1, 16)))
    rows, scale = round_rows(x)
    assert torch.isfinite(rows.float()).all() and not rows[3].float().any()
    assert ((rows.float() * scale - x).abs() <= x.abs() * 2**-4 + scale * 2**-9).all()


@torch.inference_mode()
def test_scales_are_the_smallest_powers_of_two_that_hold_a_row():
    """Powers of two divide exactly, alike on all devices. Rows on both sides of 448 times powers of two are tested."""
    largest = torch.tensor([448, 450, 446, 3.5, 3.515625, 1e-3, 1e-20, 1e20, 1.0, 0.875]).bfloat16()
    rows, scale = round_rows(largest[:, None] * torch.tensor([1.0, -0.5]).bfloat16())
    expected = torch.exp2(torch.ceil(torch.log2(largest.double() / 448)))
    assert torch.equal(scale[:, 0].double(), expected)
    assert torch.equal(rows[:, 0], (largest.double() / expected).to(torch.float8_e4m3fn))
    rows, scale = round_rows(torch.tensor([[1.0, float("nan")], [float("inf"), 1.0]]).bfloat16())
    assert rows[0, 1].isnan() and not torch.isfinite(rows[1, 0].float() * scale[1])


@torch.inference_mode()
def test_layers_keep_their_weights_and_odd_sizes_stay_as_they_are():
    network = torch.nn.Sequential(layer(kind=ScaledLinear), layer(96, 40, kind=ScaledLinear), torch.nn.Linear(40, 16))
    weight = network[0].weight
    assert use_fp8_matmuls(network) == 1
    assert type(network[0]) is Fp8MatmulLinear and network[0].weight is weight
    assert type(network[1]) is ScaledLinear and type(network[2]) is torch.nn.Linear
    assert use_fp8_matmuls(network) == 0


def test_a_cpu_does_not_count_as_able():
    assert not has_fp8_matmuls("cpu")


def test_a_release_is_rounded_on_request(tiny_release):
    release = Release(tiny_release)
    exact = release.network(names.DENOISER, dtype=torch.float32)
    network = release.network(names.DENOISER, in_fp8=True, dtype=torch.float32)
    rounded = network.blocks[0].mlp.up
    assert isinstance(rounded, ScaledLinear) and not isinstance(network.head, ScaledLinear)
    assert 0 < relative(rounded.full_weight(torch.float32), exact.blocks[0].mlp.up.weight) < 0.04
    tensors = fp8.rounded(release.transformers().tensors[names.DENOISER])
    again = fp8.rounded(tensors)
    assert again.keys() == tensors.keys() and all(again[name] is tensors[name] for name in tensors)
