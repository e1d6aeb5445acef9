"""The VAE in channels-last order, as on CUDA: activations keep the order between the first and last layer, and the
results equal those of the default order."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import group_norm
from torch.utils._python_dispatch import TorchDispatchMode

from hallo3_core.toy import noise_vae
from hallo3_core.toy.noise_vae import tiny_vae_tensors
from hallo3_core.vae import causal_conv
from hallo3_core.vae.autoencoder import channels_last, load_vae
from hallo3_core.vae.memory_order import CHANNELS_LAST, is_channels_last
from hallo3_core.vae.norms import GroupNorm
from hallo3_core.vae.resampling import Downsample, Upsample

pytestmark = pytest.mark.usefixtures("no_gradients")
# so moments have other than 32 channels
CONFIG = replace(noise_vae.CONFIG, block_out_channels=(32, 64, 64, 96), latent_channels=8)
LATENT, PIXELS = (1, CONFIG.latent_channels, 5, 4, 6), (1, 3, 9, 32, 48)
CHANNELS = CONFIG.block_out_channels


class Copies(TorchDispatchMode):
    """Records every operation whose result is not channels-last, and every convolution whose input is not."""

    def __init__(self):
        super().__init__()
        self.found = []

    def see(self, name, x):
        if x.ndim in (4, 5) and x.shape[1] in CHANNELS and x[0, 0].numel() > 1 and x.stride(1) != 1:
            self.found.append(f"{name} {list(x.shape)} {x.stride()}")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and "aten.conv" not in str(function):
            self.see(str(function), result)
        return result


@pytest.fixture
def copies(monkeypatch):
    """Convolutions return the memory order of their weights, as in cuDNN."""
    copies = Copies()
    for kind, order in ((torch.nn.Conv2d, torch.channels_last), (torch.nn.Conv3d, CHANNELS_LAST)):

        def forward(layer, x, weight, bias, plain=kind._conv_forward, order=order):
            copies.see("conv", x)
            return plain(layer, x, weight, bias).contiguous(memory_format=order)

        monkeypatch.setattr(kind, "_conv_forward", forward)
    return copies


@pytest.fixture(scope="module")
def tensors():
    return {name: tensor.float() for name, tensor in tiny_vae_tensors(3, CONFIG).items()}


def draw(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.fixture(params=[4000, 2**27], ids=["in pieces", "whole"])
def pieces(request, monkeypatch):
    monkeypatch.setattr(causal_conv, "MAX_INPUT", request.param)


@pytest.mark.usefixtures("pieces")
def test_no_activation_changes_its_order(tensors, copies):
    vae = load_vae(tensors)
    channels_last(vae)
    plain = load_vae(tensors)
    expected = [plain.decode(draw(*LATENT)), plain.encode(draw(*PIXELS))]
    with copies:
        found = [vae.decode(draw(*LATENT)), vae.encode(draw(*PIXELS))]
    assert not copies.found
    for own, same in zip(found, expected, strict=True):
        assert own.is_contiguous() and torch.allclose(own, same, atol=2e-5)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 3e-3), (torch.float16, 4e-4)])
@pytest.mark.parametrize("offset", [0, 30])
def test_the_norm_rounds_once(dtype, limit, offset):
    """A mean of 30 standard deviations, more than activations have, reduces precision only in float32."""
    norm = GroupNorm(4, 16, 1e-6)
    torch.manual_seed(0)
    norm.weight.data.normal_(1, 0.1), norm.bias.data.normal_()
    norm.to(dtype)
    x = (draw(2, 16, 3, 20, 30) + offset).to(dtype).contiguous(memory_format=CHANNELS_LAST)
    exact = group_norm(x.double(), 4, norm.weight.double(), norm.bias.double(), 1e-6)
    found = norm(x)
    assert is_channels_last(found)
    error = (found.double() - exact).norm() / exact.norm()
    assert error < (limit if offset == 0 or dtype != torch.float32 else 1e-4)
    if dtype == torch.float32 and offset == 0:
        assert torch.allclose(found, torch.nn.GroupNorm.forward(norm, x), atol=2e-6)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("order", [torch.contiguous_format, CHANNELS_LAST])
@pytest.mark.parametrize("time", [False, True])
@pytest.mark.parametrize("frames", [1, 2, 3, 8, 9])
def test_changes_of_size_are_diffusers(frames, time, order):
    from diffusers.models.downsampling import CogVideoXDownsample3D
    from diffusers.models.upsampling import CogVideoXUpsample3D

    x = draw(2, 8, frames, 10, 12).contiguous(memory_format=order)
    for theirs, own in ((CogVideoXUpsample3D, Upsample), (CogVideoXDownsample3D, Downsample)):
        layer = theirs(8, 6, compress_time=time)
        expected = layer(x.contiguous())
        found = own(layer.conv, time)(x)
        assert torch.allclose(found, expected, atol=2e-6)
        assert is_channels_last(found) == (order == CHANNELS_LAST)
