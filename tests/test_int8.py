"""int8 weights: rotated and rounded by row, read as ComfyUI's own files are, and in all forms that those have."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hallo3_core.errors import InputError
from hallo3_core.model.scaled import Int8Linear, rotate
from hallo3_core.pipeline.networks import load_denoiser
from hallo3_core.pipeline.options import Options
from hallo3_core.release.convert import convert
from hallo3_core.release.inspect import inspect
from hallo3_core.release.layout import Release
from hallo3_core.release.lora.base import KEY, base_text, warn_of_other_base
from hallo3_core.weights import fp8, int8, names
from hallo3_core.weights.parts import load, sort_tensors
from hallo3_core.weights.quantised import dequantised, group_in, multiplied_out, with_our_layers
from hallo3_core.weights.reading import read_tensors

NAME = "hallo3_denoiser.safetensors"
LAYER = "blocks.0.mlp.up"


@pytest.fixture(scope="module")
def converted(tiny_release, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    convert(Release(tiny_release).transformer_file, folder, "int8")
    return folder


@given(group=st.sampled_from(int8.GROUPS), seed=st.integers(0, 99))
def test_a_second_rotation_undoes_the_first_and_keeps_products(group, seed):
    a, b = torch.randn(2, 3, 2 * group, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(rotate(rotate(a, group), group), a)
    torch.testing.assert_close(rotate(a, group) @ rotate(b, group).T, a @ b.T)


def test_a_rotation_spreads_one_large_value_over_its_group():
    one = torch.zeros(1, 512)
    one[0, 300] = 16.0
    assert set(rotate(one, 256)[0, 256:].abs().tolist()) == {1.0} and not rotate(one, 256)[0, :256].any()


@given(columns=st.sampled_from([5, 12, 64, 768]), spread=st.floats(-20, 8), seed=st.integers(0, 99))
def test_rounding_errs_by_half_a_step_of_each_row(columns, spread, seed):
    weight = torch.randn(7, columns, generator=torch.Generator().manual_seed(seed)) * 2.0**spread
    weight[3] = 0
    values, scale = int8.quantise(weight)
    group = int8.group_of(columns)
    assert values.dtype == torch.int8 and scale.shape == (7, 1) and torch.equal(scale, scale.bfloat16().float())
    error = (rotate(weight, group) - values * scale).abs()
    assert (error <= 0.501 * scale).all() and not values[3].any()
    assert (scale <= rotate(weight, group).abs().amax(1, keepdim=True) / 127 * 1.01 + int8.SMALLEST).all()


def test_nan_is_refused():
    with pytest.raises(InputError, match="up holds NaN or infinity: it cannot be rounded to int8"):
        int8.quantise(torch.full((2, 4), torch.nan), "up")


def test_a_layer_computes_with_the_dequantised_weight():
    weight, x = torch.randn(8, 64), torch.randn(5, 64)
    layer = Int8Linear(64, 8, group=64, bias=False)
    layer.weight.data, layer.weight_scale.data = int8.quantise(weight)
    torch.testing.assert_close(layer(x), x @ layer.full_weight(torch.float32).T)
    error = (layer.full_weight(torch.float32) - weight).norm() / weight.norm()
    assert error < 0.01 < (fp8.quantise(weight)[0].float() * fp8.quantise(weight)[1] - weight).norm() / weight.norm()


def test_a_file_holds_what_rounding_gives_whatever_the_slices(tiny_release, converted, monkeypatch, tmp_path):
    plain = Release(tiny_release).transformers().tensors[names.DENOISER]
    wanted, found = int8.rounded(plain), read_tensors(converted / NAME)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name].float(), tensor.to(found[name].dtype).float()), name
    monkeypatch.setattr("hallo3_core.release.convert.SLICE_BYTES", 1 << 10)
    convert(Release(tiny_release).transformer_file, tmp_path, "int8")
    assert all(torch.equal(a, found[n]) for n, a in read_tensors(tmp_path / NAME).items())


def test_a_network_stays_in_int8_and_computes_as_its_whole_weights(converted):
    parts = sort_tensors(read_tensors(converted / NAME))
    network = load(parts, names.DENOISER, dtype=torch.float32)
    layer = network.get_submodule(LAYER)
    assert isinstance(layer, Int8Linear) and layer.weight.dtype == torch.int8 and layer.group == 64
    whole = dequantised(parts.tensors[names.DENOISER], LAYER, torch.float32)
    torch.testing.assert_close(layer.full_weight(torch.float32), whole)
    assert inspect(converted / NAME).usable


def of_core(tensors):
    """As ComfyUI writes it: settings nested or not, no word of exact products, a scale for the matrix."""
    found = dict(tensors)
    for name in [name for name in tensors if name.endswith(fp8.MARK)]:
        group = group_in(tensors[name])
        settings = {"format": "int8_tensorwise", "params": {"convrot": True, "convrot_groupsize": group}}
        found[name] = torch.tensor(list(json.dumps(settings).encode()), dtype=torch.uint8)
    return found


def without_rotation(tensors):
    """One scale for each matrix, of no dimension, and no mark."""
    found = multiplied_out(tensors, torch.float32)
    for name in [name for name in found if fp8.is_rounded(name)]:
        scale = found[name].abs().max() / 127
        found[name], found[name + "_scale"] = (found[name] / scale).round().to(torch.int8), scale
    return found


@pytest.mark.parametrize("form", [of_core, without_rotation])
def test_other_programs_forms_are_the_same_network(converted, tmp_path, form):
    own = load_file(converted / NAME)
    save_file(form(own), tmp_path / NAME)
    assert inspect(tmp_path / NAME).usable
    found = load(sort_tensors(read_tensors(tmp_path / NAME)), names.DENOISER).get_submodule(LAYER)
    wanted = dequantised(own, LAYER, torch.float32)
    near = 0.0 if form is of_core else 0.02
    assert (found.full_weight(torch.float32) - wanted).norm() <= near * wanted.norm()


def test_what_our_layers_cannot_hold_is_dequantised_and_a_format_of_tomorrow_refused():
    weight = torch.randn(8, 64)
    values, scale = int8.quantise(weight)
    tensors = {"a.weight": values, "a.weight_scale": scale, "a.comfy_quant": int8.mark(64)}
    found = with_our_layers(tensors)
    assert found.keys() == {"a.weight"} and found["a.weight"].dtype == torch.bfloat16
    torch.testing.assert_close(found["a.weight"].float(), weight, atol=0.05, rtol=0.01)
    tensors["a.comfy_quant"] = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
    with pytest.raises(InputError, match="a in 'nvfp4'.*Choose bf16, fp8 or int8"):
        with_our_layers(tensors)


def test_fp8_on_int8_weights_changes_nothing_and_says_so(converted, caplog):
    release = Release(converted)
    config = load(release.transformers(), names.DENOISER, device="meta").config
    network = load_denoiser(release, config, Options(fp8="weights"), ())
    assert network.get_submodule(LAYER).weight.dtype == torch.int8
    assert "in int8 and stay so: --fp8 changes nothing" in caplog.text


def test_the_base_of_a_lora_is_known_in_int8(tiny_release, converted, caplog):
    stated = base_text(Release(tiny_release).transformers().tensors[names.DENOISER])
    network = load(Release(converted).transformers(), names.DENOISER)
    warn_of_other_base("lora", {KEY: stated}, network.state_dict())
    assert not caplog.text
    for layer in network.modules():
        if isinstance(layer, Int8Linear):
            layer.weight_scale.data = layer.weight_scale * 2
    warn_of_other_base("lora", {KEY: stated}, network.state_dict())
    assert "was trained on other weights" in caplog.text
