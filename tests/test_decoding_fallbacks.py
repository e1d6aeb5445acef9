"""Decoding when the denoiser fills the memory: the denoiser is offloaded and loaded again."""

import pytest
import torch

from hallo3_core.pipeline.decoding_fallbacks import (
    OFFLOAD_ALL,
    OFFLOAD_DENOISER,
    TILED,
    WHOLE,
    decoding_fallbacks,
    offloaded,
)
from hallo3_core.runtime.streaming import StreamedBlocks
from tools.testbed.fake_device import FakeDevice
from tools.testbed.presets import PRESETS, build_denoiser, build_vae

TOY, FULL = PRESETS["toy"], PRESETS["full"]


@pytest.fixture
def fake():
    with FakeDevice() as fake:
        yield fake


def test_on_a_cpu_there_is_nothing_to_move():
    denoiser = build_denoiser(TOY, "cpu", torch.bfloat16)
    assert list(decoding_fallbacks(denoiser, "cpu")) == [WHOLE, TILED]


def test_streamed_blocks_stay(fake):
    denoiser = build_denoiser(TOY, "cpu", torch.bfloat16)
    denoiser.blocks = StreamedBlocks(denoiser.blocks, fake.device)
    with offloaded(denoiser, fake.device):
        assert denoiser.blocks.slots[0].device.type == fake.device.type


@pytest.mark.parametrize(("mode", "gigabytes"), [(WHOLE, 22.5), (OFFLOAD_DENOISER, 9), (OFFLOAD_ALL, 6)])
def test_a_smaller_mode_needs_less_and_leaves_everything_in_place(fake, mode, gigabytes):
    """At the released size: the denoiser's blocks take 13.6 GB, the frames between chunks 2.8."""
    denoiser = build_denoiser(FULL, fake.device, torch.bfloat16)
    for part in (denoiser.modulation, denoiser.head_modulation, denoiser.text_embed):
        part.to("meta")
    vae = build_vae(FULL, fake.device, torch.bfloat16)
    latent = torch.empty(1, 16, 5, 60, 90, dtype=torch.bfloat16, device=fake.device)
    peaks, held, cpu = [], fake.held, torch.device("cpu")

    class Watched(torch.nn.Module):
        """The VAE; its peak memory is measured without the transfers before and after."""

        autoencoder = vae.autoencoder

        def decode_chunks(self, latent):
            fake.reset()
            yield from vae.decode_chunks(latent)
            peaks.append(fake.peak)

    frames = decoding_fallbacks(denoiser, fake.device)[mode](Watched(), latent)
    assert frames.shape == (17, 3, 480, 720)
    assert gigabytes - 1.5 < peaks[0] / 1e9 < gigabytes
    del frames
    assert fake.held == held and not any(p.device == cpu for p in denoiser.parameters())
    assert all(getattr(module, "keep", None) is None for module in vae.modules())


def test_the_denoiser_comes_back_after_a_failure_too(fake):
    denoiser = build_denoiser(TOY, fake.device, torch.bfloat16)

    class Full:
        def decode_chunks(self, latent):
            assert denoiser.blocks[0].mlp.up.weight.device.type == "cpu"
            raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        decoding_fallbacks(denoiser, fake.device)[OFFLOAD_DENOISER](
            Full(), torch.empty(1, 16, 3, 8, 12, device=fake.device)
        )
    assert denoiser.blocks[0].mlp.up.weight.device.type == fake.device.type
