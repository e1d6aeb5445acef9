"""Preview colours of a latent, fitted to a picture."""

from __future__ import annotations

import torch

from hallo3_core.vae.preview import fit_colours


def test_a_linear_latent_is_shown_exactly():
    draw = torch.Generator().manual_seed(0)
    small = torch.rand(3, 12, 20, generator=draw) * 2 - 1
    pixels = small.repeat_interleave(8, 1).repeat_interleave(8, 2)
    mixing, offset = torch.randn(16, 3, generator=draw), torch.randn(16, generator=draw)
    latent = torch.einsum("ck,khw->chw", mixing, small) + offset[:, None, None]
    factors, bias = fit_colours(latent, pixels)
    shown = torch.einsum("kc,chw->khw", factors, latent) + bias[:, None, None]
    torch.testing.assert_close(shown, small, atol=1e-4, rtol=0)


def test_a_flat_picture_keeps_its_colour_and_gives_small_factors():
    factors, bias = fit_colours(torch.full((16, 6, 9), 0.5), torch.full((3, 48, 72), -0.2))
    assert torch.allclose(factors.sum(1) * 0.5 + bias, torch.tensor(-0.2), atol=1e-5)
    assert factors.abs().max() < 1
