"""Decoding beside a denoiser that takes the memory: it makes room and comes back, and tiles are the last way."""

import pytest
import torch

from benchmarks.imagined import ImaginedCard
from benchmarks.presets import PRESETS, build_denoiser, build_vae
from hallo3_core.decoding_ways import ALONE, TILED, WHOLE, decoding_ways
from hallo3_core.streaming import StreamedBlocks

TOY = PRESETS["toy"]


@pytest.fixture
def card():
    with ImaginedCard() as card:
        yield card


def test_on_a_cpu_and_with_streamed_blocks_there_is_nothing_to_move(card):
    denoiser = build_denoiser(TOY, "cpu", torch.bfloat16)
    assert list(decoding_ways(denoiser, "cpu")) == [WHOLE, TILED]
    assert list(decoding_ways(denoiser, card.device)) == [WHOLE, ALONE, TILED]
    denoiser.blocks = StreamedBlocks(denoiser.blocks, card.device)
    assert list(decoding_ways(denoiser, card.device)) == [WHOLE, TILED]


def test_the_denoiser_makes_room_and_comes_back(card):
    denoiser = build_denoiser(TOY, card.device, torch.bfloat16)
    blocks = sum(parameter.nbytes for parameter in denoiser.blocks.parameters())
    vae = build_vae(TOY, card.device, torch.bfloat16)
    latent = torch.empty(1, 16, 3, 8, 12, dtype=torch.bfloat16, device=card.device)
    peaks = {}
    for name, decode in decoding_ways(denoiser, card.device).items():
        card.reset()
        frames = decode(vae, latent)
        peaks[name] = card.peak
        assert frames.shape == (9, 3, 64, 96)
        assert all(parameter.device.type == card.device.type for parameter in denoiser.parameters())
        del frames
    # it goes before the decoding begins, and is whole again, beside the frames, at the end
    assert peaks[ALONE] <= max(peaks[WHOLE] - blocks, card.held + 4 * 9 * 3 * 64 * 96 + 4096)


def test_the_denoiser_comes_back_after_a_failure_too(card):
    denoiser = build_denoiser(TOY, card.device, torch.bfloat16)

    class Full:
        def decode_chunks(self, latent):
            assert denoiser.blocks[0].mlp.up.weight.device.type == "cpu"
            raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        decoding_ways(denoiser, card.device)[ALONE](Full(), torch.empty(1, 16, 3, 8, 12, device=card.device))
    assert denoiser.blocks[0].mlp.up.weight.device.type == card.device.type
