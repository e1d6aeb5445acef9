"""The replaced norm of the VAE's decoder: diffusers' values and names, and nothing left in the caches."""

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXSpatialNorm3D

from hallo3_core.vae.autoencoder import VaeConfig, build_vae
from hallo3_core.vae.spatial_norm import SpatialNorm, replace_spatial_norms

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.mark.parametrize(("latent", "activation"), [(1, 1), (3, 3), (3, 5), (3, 9), (2, 2), (2, 4), (2, 8), (5, 17)])
@pytest.mark.parametrize("scale", [1, 2, 8])
def test_the_numbers_are_those_of_diffusers(latent, activation, scale):
    """At every size in the decoder. With an odd number of frames, the first is handled separately."""
    torch.manual_seed(0)
    theirs = CogVideoXSpatialNorm3D(8, 4, groups=2)
    ours = SpatialNorm(theirs.norm_layer, theirs.conv_y, theirs.conv_b)
    z, f = torch.randn(2, 4, latent, 3, 5), torch.randn(2, 8, activation, 3 * scale, 5 * scale)
    before = f.clone()
    found, caches = ours(f, z)
    assert torch.allclose(found, theirs(f, z)[0], atol=2e-6)
    assert torch.equal(f, before) and not caches


def test_every_norm_that_reads_the_latent_is_exchanged_and_keeps_its_names():
    config = VaeConfig((32, 32, 64, 32), 1)
    with torch.device("meta"):
        theirs = AutoencoderKLCogVideoX(
            block_out_channels=config.block_out_channels, layers_per_block=config.layers_per_block
        )
    names = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert any(isinstance(module, CogVideoXSpatialNorm3D) for module in theirs.modules())
    replace_spatial_norms(theirs.decoder)
    assert not any(isinstance(module, CogVideoXSpatialNorm3D) for module in theirs.modules())
    assert {name: tensor.shape for name, tensor in theirs.state_dict().items()} == names
    assert any(isinstance(module, SpatialNorm) for module in build_vae(config).modules())
