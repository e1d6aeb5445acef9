"""The VAE's replaced convolution: diffusers' values, caches and tensor names, for chunks of any size."""

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXCausalConv3d

from hallo3_core.vae import causal_conv
from hallo3_core.vae.autoencoder import ReadOnce, VaeConfig, build_vae
from hallo3_core.vae.causal_conv import CausalConv, replace_causal_convs

CONFIG = VaeConfig((32, 32, 64, 32), 1)


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("piece", [1, 3 * 5 * 7 * 4, 4 * 5 * 7 * 4, 6 * 5 * 7 * 4, 2**27])
@pytest.mark.parametrize("frames", [1, 2, 3, 9])
@pytest.mark.parametrize("kernel", [1, 3])
def test_numbers_and_caches_are_those_of_diffusers(monkeypatch, piece, frames, kernel):
    """The second call uses the first call's cache. Most outputs depend on frames from two chunks."""
    monkeypatch.setattr(causal_conv, "MAX_INPUT", piece)
    torch.manual_seed(0)
    theirs = CogVideoXCausalConv3d(4, 6, kernel, pad_mode="first")
    ours = CausalConv(theirs.conv)
    first, second = torch.randn(2, 2, 4, frames, 5, 7)
    found, cache = ours(first)
    expected, their_cache = theirs(first)
    assert torch.allclose(found, expected, atol=2e-6)
    found, cache = ours(second, cache)
    expected, their_cache = theirs(second, their_cache)
    assert torch.allclose(found, expected, atol=2e-6)
    assert cache is None if kernel == 1 else torch.equal(cache, their_cache)


def test_a_cache_does_not_keep_the_frames_that_it_came_from():
    conv = CausalConv(torch.nn.Conv3d(4, 4, 3, padding=(0, 1, 1)))
    _, cache = conv(torch.randn(1, 4, 9, 5, 7))
    assert cache.untyped_storage().nbytes() == cache.nbytes


def test_every_causal_convolution_is_exchanged_and_keeps_its_names():
    with torch.device("meta"):
        theirs = AutoencoderKLCogVideoX(
            block_out_channels=CONFIG.block_out_channels, layers_per_block=CONFIG.layers_per_block
        )
    names = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert any(isinstance(module, CogVideoXCausalConv3d) for module in theirs.modules())
    replace_causal_convs(theirs)
    assert not any(isinstance(module, CogVideoXCausalConv3d) for module in theirs.modules())
    assert {name: tensor.shape for name, tensor in theirs.state_dict().items()} == names
    assert any(isinstance(module, CausalConv) for module in build_vae(CONFIG).modules())


def test_caches_are_handed_out_once():
    inner = {"conv1": torch.zeros(1), "conv2": torch.ones(1)}
    caches = ReadOnce({"block": inner, "conv_in": torch.zeros(2)})
    block = caches.get("block")
    assert block.get("conv2").item() == 1 and list(block) == ["conv1"]
    assert caches.get("block") is None and list(caches) == ["conv_in"]
