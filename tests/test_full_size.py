"""The released sizes without weights: memory, operations and synchronisations, counted on a fake device."""

import pytest
import torch

from benchmarks import clip
from benchmarks.fake_device import NAME, FakeDevice, flash_attention
from benchmarks.presets import PRESETS, build_denoiser, build_reference_net, build_vae
from hallo3_core.model.config import Grid
from hallo3_core.model.denoiser import Conditions
from hallo3_core.pipeline.options import Settings
from hallo3_core.runtime.activations import activation_bytes, decode_bytes, encode_bytes, reference_bytes, run_bytes
from hallo3_core.vae.autoencoder import channels_last

FULL, BF16, STEPS = PRESETS["full"], torch.bfloat16, 2
TRAINED, SQUARE = Grid(13, 30, 45), Grid(13, 30, 30)


@pytest.fixture(scope="module")
def phases():
    """`phases(weights)` returns the counts of a clip's phases, computed once for each `weights`."""
    known = {}

    def count(weights):
        if weights not in known:
            with FakeDevice():
                known[weights] = clip.measure(FULL, Settings(steps=STEPS), NAME, BF16, weights=weights)
        return known[weights]

    return count


@pytest.mark.parametrize(("weights", "gigabytes"), [("resident", 18), ("fp8", 12), ("streamed", 8)])
def test_two_evaluations_fit_in_the_memory_that_was_promised(phases, weights, gigabytes):
    assert phases(weights)["steps"]["peak_GB"] < gigabytes


def test_streamed_networks_fit_in_eight_gigabytes_from_the_portrait_to_the_last_step(phases):
    found = phases("streamed")
    assert max(phase["peak_GB"] for name, phase in found.items() if name != "decode") < 8


def test_a_step_is_spared_what_is_algebra_away(phases):
    """Two model calls take 837 TFLOP in the original."""
    assert phases("resident")["steps"]["TFLOP"] / STEPS < 0.93 * 837


def test_the_host_waits_once_a_step(phases):
    """It waits for the check for NaN and infinity."""
    assert phases("resident")["steps"]["waits"] == STEPS
    assert phases("resident")["what is constant"]["waits"] == 0


@pytest.fixture
def card():
    with FakeDevice() as card:
        yield card


@pytest.mark.parametrize("grid", [TRAINED, SQUARE])
@pytest.mark.parametrize("samples", [1, 2, 4])
def test_what_an_evaluation_needs_is_estimated_and_none_waits(card, grid, samples):
    denoiser = build_denoiser(FULL, card.device, BF16, attention=flash_attention)
    config = denoiser.config

    def given(*shape):
        return torch.empty(shape, dtype=BF16, device=card.device)

    layout = denoiser.layout(grid, BF16)
    modulation = denoiser.modulate_steps(given(1), BF16)
    text = denoiser.embed_text(given(samples, config.text_tokens, config.text_width))
    face = denoiser.face_keys_values(given(1, 4, config.face))
    latent = given(samples, 16, grid.frames, 2 * grid.rows, 2 * grid.columns)
    held = card.held
    reference = denoiser.reference_keys_values([given(1, grid.tokens_per_frame, config.hidden)] * config.layers)
    audio = denoiser.audio_keys_values(given(samples, grid.frames, 32, config.audio))
    card.reset()
    denoiser(latent, latent[:1], Conditions(text, reference, face, audio), modulation, layout)
    assert card.waits == 0
    needed = card.peak - held
    assert needed < activation_bytes(config, grid, samples, BF16) < 1.25 * needed


@pytest.mark.parametrize("portraits", [1, 2])
def test_what_a_run_keeps_is_estimated(card, portraits):
    denoiser = build_denoiser(FULL, card.device, BF16, attention=flash_attention)
    config, grid, steps, sounds = denoiser.config, TRAINED, 40, 2

    def given(*shape):
        return torch.empty(shape, dtype=BF16, device=card.device)

    held = card.held
    layout, modulation = denoiser.layout(grid, BF16), denoiser.modulate_steps(given(steps), BF16)
    bank, sound = [given(1, grid.tokens_per_frame, config.hidden)] * config.layers, given(1, 13, 32, config.audio)
    reference = [denoiser.reference_keys_values(bank) for _ in range(portraits)]
    audio = [denoiser.audio_keys_values(sound) for _ in range(sounds)]
    text, latent = denoiser.embed_text(given(1, config.text_tokens, config.text_width)), given(1, 16, 13, 60, 90)
    face = denoiser.face_keys_values(given(1, 4, config.face))
    card.reset()
    denoiser(latent, latent, Conditions(text, reference[0], face, audio[0]), modulation.step(0), layout)
    needed = card.peak - held
    told = run_bytes(config, grid, portraits, sounds, steps, BF16) + activation_bytes(config, grid, 1, BF16)
    assert needed < told < 1.1 * needed


@pytest.mark.parametrize("side", [30, 16])
@pytest.mark.parametrize("samples", [1, 2])
def test_what_a_portrait_needs_is_estimated(card, side, samples):
    network = build_reference_net(FULL, card.device, BF16, flash_attention)
    latent = torch.empty(samples, 16, 2 * side, 3 * side, dtype=BF16, device=card.device)
    held = card.held
    card.reset()
    network(latent)
    needed = card.peak - held
    assert needed < reference_bytes(network.config, Grid(1, side, 3 * side // 2), samples, BF16) < 1.25 * needed


def vae_as_on_cuda(device):
    vae = build_vae(FULL, device, BF16)
    channels_last(vae)
    return vae


@pytest.mark.parametrize("pixels", [(480, 720), (256, 384)])
@pytest.mark.parametrize("frames", [1, 3, 49])
def test_what_encoding_needs_is_estimated(card, pixels, frames):
    vae, picture = vae_as_on_cuda(card.device), torch.empty(1, 3, frames, *pixels, dtype=BF16).to(card.device)
    held = card.held
    card.reset()
    vae.encode(picture)
    assert card.peak - held < encode_bytes(frames, *pixels, BF16) < 1.25 * (card.peak - held)


@pytest.mark.parametrize("pixels", [(480, 720), (256, 384)])
@pytest.mark.parametrize("frames", [1, 3, 13])
def test_what_decoding_needs_is_estimated(card, pixels, frames):
    height, width = pixels
    latent = torch.empty(1, 16, frames, height // 8, width // 8, dtype=BF16, device=card.device)
    vae = vae_as_on_cuda(card.device)
    held = card.held
    card.reset()
    for _ in vae.decode_chunks(latent):
        pass
    assert card.peak - held < decode_bytes(frames, height, width, BF16) < 1.25 * (card.peak - held)


def test_the_card_counts_what_is_there_and_no_longer(card):
    a = torch.empty(1000, 1000, device=card.device)
    view = a[10:]
    card.reset()
    assert card.held == card.peak == 4_000_256  # in whole chunks
    b = a @ a
    assert card.peak == card.held == 2 * 4_000_256 and card.operations == 2 * 1000**3
    del a, b
    assert card.held == 4_000_256 and card.peak == 2 * card.held
    del view
    assert card.held == 0


def test_the_card_tells_tensors_elsewhere_and_counts_waits(card):
    a = torch.empty(4, device=card.device)
    with pytest.raises(RuntimeError, match="two devices"):
        a + torch.empty(4)
    assert bool(a.isfinite().all()) and card.waits == 1
    assert a.cpu().device.type == "cpu" and card.waits == 2
    assert torch.empty(4).to(card.device).device == a.device and card.waits == 2
