"""In half precision, pixels are rounded once, after resizing and cropping: rounding earlier biases the picture."""

from __future__ import annotations

import pytest
import torch

from hallo3_core.inputs.portrait import framed, prepare_portrait
from hallo3_core.pipeline.clip import concat_latent
from hallo3_core.pipeline.encoding import encode_portrait
from hallo3_core.pipeline.networks import Networks
from hallo3_core.pipeline.options import Options
from hallo3_core.pipeline.scene import read_scene
from hallo3_core.release.layout import Release
from hallo3_core.sampling.noise import SeededNoise

pytestmark = pytest.mark.usefixtures("no_gradients")
LEVEL = 2 / 255


class Watched:
    """A VAE that records its inputs."""

    latent_channels = 16

    def encode(self, pixels, noise=None):
        self.seen = pixels
        return torch.zeros(1, 16, 1, pixels.shape[-2] // 8, pixels.shape[-1] // 8)


@pytest.fixture
def networks(tiny_release):
    return Networks(Release(tiny_release), Options(dtype=torch.bfloat16, face="whole"))


@pytest.fixture
def scene(networks, portrait, short_speech):
    return read_scene(portrait, short_speech, "A person.", networks.config, networks.options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_command_line_rounds_a_portrait_once(networks, scene, dtype):
    exact = framed(scene.picture, scene.framing)
    vae, mask = Watched(), torch.ones(scene.picture.shape[-2:])
    found = prepare_portrait(scene.picture, mask, scene.framing, vae, lambda latent: (), dtype=dtype)
    assert found.pixels.dtype == vae.seen.dtype == dtype
    assert torch.equal(found.pixels, exact.to(dtype)) and torch.equal(vae.seen[:, :, 0], exact.to(dtype))


def test_the_film_s_portrait_is_without_bias(networks, scene):
    found, _ = encode_portrait(scene, networks)
    exact = framed(scene.picture, scene.framing)
    assert found.pixels.dtype == torch.bfloat16 and torch.equal(found.pixels, exact.bfloat16())
    assert abs((found.pixels.float() - exact).mean()) < 0.02 * LEVEL


def test_motion_frames_are_rounded_once(networks):
    motion = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    portrait, vae = torch.zeros(1, 3, 32, 32, dtype=torch.bfloat16), Watched()
    noise = SeededNoise(0, 1)
    concat_latent(vae, portrait, motion, noise)
    seen, wanted = vae.seen[0, :, 1:].transpose(0, 1), (motion * 2 - 1).bfloat16()
    kept = seen != 0
    assert kept.float().mean() > 0.8 and torch.equal(seen[kept], wanted[kept])
