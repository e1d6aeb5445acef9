"""Packed weights come back to half a step, and what is damaged is named."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hallo3_core.errors import InputError
from hallo3_core.toy.packing import SCALE, STEPS, pack_tensors, unpack_tensors


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**20), rows=st.integers(2, 40), spread=st.floats(1e-4, 100))
def test_a_matrix_comes_back_to_half_a_step_of_its_row(seed, rows, spread):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, 64, 3, 3, generator=generator) * spread * torch.rand(rows, 1, 1, 1, generator=generator)
    back = unpack_tensors(pack_tensors({"w": weight}))["w"]
    step = weight.flatten(1).abs().amax(1) / STEPS
    assert back.shape == weight.shape
    assert ((back - weight).flatten(1).abs() <= step[:, None] * 0.501).all()


def test_small_tensors_stay_exact_and_large_ones_shrink_to_a_quarter():
    tensors = {"bias": torch.randn(300), "table": torch.randn(1, 700, 160)}
    packed = pack_tensors(tensors)
    assert torch.equal(unpack_tensors(packed)["bias"], tensors["bias"])
    assert packed["table" + SCALE].numel() == 700  # a leading dimension of 1 is no row
    size = sum(tensor.nbytes for tensor in packed.values())
    assert size < 0.27 * sum(tensor.nbytes for tensor in tensors.values())


def test_packing_twice_changes_nothing_more():
    once = unpack_tensors(pack_tensors({"w": torch.randn(32, 64)}))
    twice = unpack_tensors(pack_tensors(once))
    assert torch.allclose(once["w"], twice["w"], rtol=1e-6, atol=0)


def test_what_is_damaged_is_refused():
    packed = pack_tensors({"w": torch.randn(32, 64)})
    del packed["w" + SCALE]
    with pytest.raises(InputError, match="w has no scales"):
        unpack_tensors(packed)
    with pytest.raises(ValueError, match="not finite"):
        pack_tensors({"w": torch.full((32, 64), float("nan"))})
