"""The released sizes without weights: memory, operations and synchronisations, counted on a fake device."""

import pytest
import torch

from hallo3_core.model.config import Grid
from hallo3_core.model.denoiser import Conditions
from hallo3_core.pipeline.options import Settings
from hallo3_core.runtime.activations import activation_bytes, decode_bytes, encode_bytes, reference_bytes, run_bytes
from hallo3_core.vae.autoencoder import channels_last
from tools.testbed import clip_phases
from tools.testbed.fake_device import NAME, FakeDevice, flash_attention
from tools.testbed.presets import PRESETS, build_denoiser, build_reference_net, build_vae

FULL, BF16, STEPS = PRESETS["full"], torch.bfloat16, 2
TRAINED, SQUARE = Grid(13, 30, 45), Grid(13, 30, 30)


@pytest.fixture(scope="module")
def phases():
    """`phases(weights)` returns the counts of a clip's phases, computed once for each `weights`."""
    known = {}

    def count(weights):
        if weights not in known:
            with FakeDevice():
                known[weights] = clip_phases.measure(FULL, Settings(steps=STEPS), NAME, BF16, weights=weights)
        return known[weights]

    return count


@pytest.mark.parametrize(("weights", "gigabytes"), [("resident", 18), ("fp8", 12), ("streamed", 8)])
def test_two_model_calls_fit_in_the_memory_that_was_promised(phases, weights, gigabytes):
    assert phases(weights)["steps"]["peak_GB"] < gigabytes


def test_streamed_networks_fit_in_eight_gigabytes_from_the_portrait_to_the_last_step(phases):
    found = phases("streamed")
    assert max(phase["peak_GB"] for name, phase in found.items() if name != "decode") < 8


def test_a_step_leaves_out_what_algebra_removes(phases):
    """Two model calls take 837 TFLOP in the original."""
    assert phases("resident")["steps"]["TFLOP"] / STEPS < 0.93 * 837


def test_the_host_waits_once_a_step(phases):
    """It waits for the check for NaN and infinity."""
    assert phases("resident")["steps"]["waits"] == STEPS
    assert phases("resident")["what is constant"]["waits"] == 0


@pytest.fixture
def fake():
    with FakeDevice() as fake:
        yield fake


@pytest.mark.parametrize("grid", [TRAINED, SQUARE])
@pytest.mark.parametrize("samples", [1, 2, 4])
def test_the_memory_of_a_model_call_is_estimated_and_none_waits(fake, grid, samples):
    denoiser = build_denoiser(FULL, fake.device, BF16, attention=flash_attention)
    config = denoiser.config

    def empty(*shape):
        return torch.empty(shape, dtype=BF16, device=fake.device)

    layout = denoiser.layout(grid, BF16)
    modulation = denoiser.modulate_steps(empty(1), BF16)
    text = denoiser.embed_text(empty(samples, config.text_tokens, config.text_width))
    face = denoiser.face_keys_values(empty(1, 4, config.face))
    latent = empty(samples, 16, grid.frames, 2 * grid.rows, 2 * grid.columns)
    held = fake.held
    reference = denoiser.reference_keys_values([empty(1, grid.tokens_per_frame, config.hidden)] * config.layers)
    audio = denoiser.audio_keys_values(empty(samples, grid.frames, 32, config.audio))
    fake.reset()
    denoiser(latent, latent[:1], Conditions(text, reference, face, audio), modulation, layout)
    assert fake.waits == 0
    needed = fake.peak - held
    assert needed < activation_bytes(config, grid, samples, BF16) < 1.25 * needed


@pytest.mark.parametrize("portraits", [1, 2])
def test_what_a_run_keeps_is_estimated(fake, portraits):
    denoiser = build_denoiser(FULL, fake.device, BF16, attention=flash_attention)
    config, grid, steps, sounds = denoiser.config, TRAINED, 40, 2

    def empty(*shape):
        return torch.empty(shape, dtype=BF16, device=fake.device)

    held = fake.held
    layout, modulation = denoiser.layout(grid, BF16), denoiser.modulate_steps(empty(steps), BF16)
    bank, sound = [empty(1, grid.tokens_per_frame, config.hidden)] * config.layers, empty(1, 13, 32, config.audio)
    reference = [denoiser.reference_keys_values(bank) for _ in range(portraits)]
    audio = [denoiser.audio_keys_values(sound) for _ in range(sounds)]
    text, latent = denoiser.embed_text(empty(1, config.text_tokens, config.text_width)), empty(1, 16, 13, 60, 90)
    face = denoiser.face_keys_values(empty(1, 4, config.face))
    fake.reset()
    denoiser(latent, latent, Conditions(text, reference[0], face, audio[0]), modulation.step(0), layout)
    needed = fake.peak - held
    estimate = run_bytes(config, grid, portraits, sounds, steps, BF16) + activation_bytes(config, grid, 1, BF16)
    assert needed < estimate < 1.1 * needed


@pytest.mark.parametrize("side", [30, 16])
@pytest.mark.parametrize("samples", [1, 2])
def test_what_a_portrait_needs_is_estimated(fake, side, samples):
    network = build_reference_net(FULL, fake.device, BF16, flash_attention)
    latent = torch.empty(samples, 16, 2 * side, 3 * side, dtype=BF16, device=fake.device)
    held = fake.held
    fake.reset()
    network(latent)
    needed = fake.peak - held
    assert needed < reference_bytes(network.config, Grid(1, side, 3 * side // 2), samples, BF16) < 1.25 * needed


def vae_as_on_cuda(device):
    vae = build_vae(FULL, device, BF16)
    channels_last(vae)
    return vae


@pytest.mark.parametrize("pixels", [(480, 720), (256, 384)])
@pytest.mark.parametrize("frames", [1, 3, 49])
def test_what_encoding_needs_is_estimated(fake, pixels, frames):
    vae, picture = vae_as_on_cuda(fake.device), torch.empty(1, 3, frames, *pixels, dtype=BF16).to(fake.device)
    held = fake.held
    fake.reset()
    vae.encode(picture)
    assert fake.peak - held < encode_bytes(frames, *pixels, BF16) < 1.25 * (fake.peak - held)


@pytest.mark.parametrize("pixels", [(480, 720), (256, 384)])
@pytest.mark.parametrize("frames", [1, 3, 13])
def test_what_decoding_needs_is_estimated(fake, pixels, frames):
    height, width = pixels
    latent = torch.empty(1, 16, frames, height // 8, width // 8, dtype=BF16, device=fake.device)
    vae = vae_as_on_cuda(fake.device)
    held = fake.held
    fake.reset()
    for _ in vae.decode_chunks(latent):
        pass
    assert fake.peak - held < decode_bytes(frames, height, width, BF16) < 1.25 * (fake.peak - held)


def test_the_fake_device_counts_tensors_until_they_are_freed(fake):
    a = torch.empty(1000, 1000, device=fake.device)
    view = a[10:]
    fake.reset()
    assert fake.held == fake.peak == 4_000_256  # in whole chunks
    b = a @ a
    assert fake.peak == fake.held == 2 * 4_000_256 and fake.operations == 2 * 1000**3
    del a, b
    assert fake.held == 4_000_256 and fake.peak == 2 * fake.held
    del view
    assert fake.held == 0


def test_the_fake_device_distinguishes_tensors_elsewhere_and_counts_waits(fake):
    a = torch.empty(4, device=fake.device)
    with pytest.raises(RuntimeError, match="two devices"):
        a + torch.empty(4)
    assert bool(a.isfinite().all()) and fake.waits == 1
    assert a.cpu().device.type == "cpu" and fake.waits == 2
    assert torch.empty(4).to(fake.device).device == a.device and fake.waits == 2
