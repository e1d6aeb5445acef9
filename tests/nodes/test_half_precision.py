"""Where fewer bits do not serve: a VAE in fp16 that gives NaN, and the host's fp8 matmuls."""

from __future__ import annotations

import pytest
import torch
from torch import nn


@pytest.fixture
def in_fp16(pack, models):
    """The toy VAE as a host started with --fp16-vae has it; its decoder passes fp16's largest number."""
    vae = pack("nodes.loaders").Hallo3VAELoader().execute("hallo3/tiny/")[0]
    vae.vae_dtype = torch.float16
    vae.first_stage_model.half()
    return vae


@pytest.mark.parametrize("way", ["encode", "decode"])
def test_a_vae_whose_fp16_gives_nan_goes_on_in_float32(pack, in_fp16, loaded, caplog, way):
    stage, sample = (
        in_fp16.first_stage_model,
        torch.rand(1, 16, 16, 3) if way == "encode" else torch.randn(1, 16, 1, 2, 2),
    )
    original = getattr(stage, way)

    def overflowing(x):
        return original(x) * (float("nan") if x.dtype == torch.float16 else 1)

    setattr(stage, way, overflowing)
    found = getattr(in_fp16, way)(sample)
    expected = getattr(loaded.vae, way)(sample)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
    assert "the VAE gave NaN in fp16: it runs in float32 from now on" in caplog.text
    assert {parameter.dtype for parameter in stage.parameters()} == {torch.float32}


def test_what_is_nan_before_the_vae_is_not_the_vae_s(pack, in_fp16, caplog):
    with pytest.raises(pack("hallo3_core.errors").InputError, match="latent to decode"):
        in_fp16.decode(torch.full((1, 16, 1, 2, 2), torch.nan))
    assert in_fp16.vae_dtype == torch.float16 and "float32" not in caplog.text


class HostLinear(nn.Linear):
    """Rounds its input to fp8 as it is, as the host's layer does."""

    layout_type = "fp8"

    def forward(self, x):
        return super().forward(x.clamp(-448, 448).to(torch.float8_e4m3fn).to(x.dtype))


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_rows_come_to_fp8_at_its_own_scale(pack, size):
    layer = pack("nodes.host.memory")._with_scaled_rows(HostLinear)(64, 32)
    plain, x = HostLinear(64, 32), torch.randn(3, 5, 64) * torch.tensor([1.0, 10, 100, 1e-2, 0]).view(-1, 1) * size
    plain.load_state_dict(layer.state_dict())
    exact = torch.nn.functional.linear(x, layer.weight, layer.bias)
    moved = (exact - layer.bias).abs().amax(dim=-1)
    error = (layer(x) - exact).abs().amax(dim=-1)
    assert (error <= 0.06 * moved + 1e-6).all()
    if size != 1.0:
        assert ((plain(x) - exact).abs().amax(dim=-1) > 0.06 * moved + 1e-6).any()
