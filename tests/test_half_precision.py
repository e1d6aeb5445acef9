"""Half precision on a CPU is checked against float32 before use; wav2vec2 never uses it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from hallo3_core.animate import animate
from hallo3_core.errors import InputError
from hallo3_core.pipeline.networks import Networks
from hallo3_core.pipeline.options import Options, Settings
from hallo3_core.release.layout import Release
from hallo3_core.runtime import half_precision
from hallo3_core.runtime.half_precision import (
    LIMIT,
    Call,
    check_half_precision,
    convolution_calls,
    half_precision_error,
    processor,
)

OPTIONS = Options(Settings(steps=1), size=(32, 48), dtype=torch.bfloat16)
RELEASED_POSITIONS = Call(nn.Conv1d(768, 768, 128, padding=64, groups=16), torch.Size((1, 768, 98)))
TOY_POSITIONS = Call(nn.Conv1d(24, 24, 16, padding=8, groups=2), torch.Size((1, 24, 98)))  # wrong on AMX, torch 2.13
LAYERS = [
    RELEASED_POSITIONS,
    TOY_POSITIONS,
    Call(nn.Conv2d(32, 48, 2, 2), torch.Size((13, 32, 8, 12))),
    Call(nn.Conv3d(16, 32, 3, padding=(0, 1, 1)), torch.Size((1, 16, 5, 8, 12))),
]


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("call", LAYERS, ids=lambda call: type(call.layer).__name__)
def test_a_layer_is_refused_exactly_where_its_own_results_are_wrong(call, dtype):
    """Measures the error independently, with the layer itself on a full input."""
    torch.manual_seed(1)
    layer, x = call.layer.to(dtype), torch.randn(call.shape).to(dtype)
    with torch.no_grad():
        found, exact = layer(x).float(), layer.double()(x.double()).float()
    is_wrong = bool((found - exact).norm() > LIMIT[dtype] * exact.norm())
    error = half_precision_error(call, dtype)
    assert (error > LIMIT[dtype]) == is_wrong, f"{processor()}: {call.layer} is {error:.1%} off in {dtype}"
    if not is_wrong:
        check_half_precision([call], dtype)
        return
    with pytest.raises(InputError, match="choose --dtype fp32"):
        check_half_precision([call], dtype)


@pytest.mark.parametrize("dtype", LIMIT)
def test_what_a_cpu_is_offered_is_near_float32(tiny_release, dtype):
    """At the toy's shapes: the convolutions that a run checks, and also linear layers and attention."""
    Networks(Release(tiny_release), replace(OPTIONS, dtype=dtype)).check_half_precision((32, 48))
    torch.manual_seed(0)
    x, weight = torch.randn(1, 2, 104, 64).to(dtype), torch.randn(64, 64).to(dtype)
    for function in (
        lambda x, weight: x @ weight,
        lambda x, weight: nn.functional.scaled_dot_product_attention(x, x, x),
    ):
        found, exact = function(x, weight).float(), function(x.float(), weight.float())
        error = (found - exact).norm() / exact.norm()
        assert error < LIMIT[dtype], f"{processor()}: {error:.1%} off in {dtype}"


def test_a_wrong_result_is_reported_with_the_processor_before_anything_is_computed(
    tiny_release, portrait, short_speech, tmp_path, monkeypatch
):
    monkeypatch.setitem(LIMIT, torch.bfloat16, 0.0)  # rounding alone exceeds it
    film = tmp_path / "film.mp4"
    with pytest.raises(InputError) as error:
        animate(portrait, short_speech, "A person.", film, Networks(Release(tiny_release), OPTIONS))
    assert processor() in str(error.value) and "choose --dtype fp32" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_it_is_compared_once_a_size_and_in_half_precision_alone(tiny_release, monkeypatch):
    compared = []
    monkeypatch.setattr(half_precision, "half_precision_error", lambda call, dtype: compared.append(call) or 0.0)
    networks = Networks(Release(tiny_release), OPTIONS)
    networks.check_half_precision((32, 48))
    first = len(compared)
    assert first > 10
    networks.check_half_precision((32, 48))
    assert len(compared) == first
    networks.check_half_precision((48, 48))
    assert len(compared) > first
    compared.clear()
    Networks(Release(tiny_release), replace(OPTIONS, dtype=torch.float32)).check_half_precision((32, 48))
    assert not compared


def test_every_convolution_that_runs_is_found_once():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(4, 4), nn.Conv2d(3, 3, 1, groups=3))
    network.to("meta")
    x = torch.empty(2, 3, 4, 4, device="meta")
    calls = convolution_calls(network, lambda: (network(x), network(x[:, :, :, :4])))
    assert [call.layer.groups for call in calls] == [1, 3] and {call.shape for call in calls} == {x.shape}
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_wav2vec2_is_float32_whatever_the_options_want(tiny_release):
    for dtype in LIMIT:
        with Networks(Release(tiny_release), replace(OPTIONS, dtype=dtype)).wav2vec() as wav2vec:
            assert {p.dtype for p in wav2vec.model.parameters()} == {torch.float32}
