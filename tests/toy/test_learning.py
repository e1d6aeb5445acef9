"""The toy networks learn: losses fall in a few steps, and what trains is what the program then runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hallo3_core.toy.learning import train_vae
from hallo3_core.toy.learning.budget import Budget, rate
from hallo3_core.toy.learning.footage import DrawnFootage, draw_footage
from hallo3_core.toy.learning.linear_code import fit
from hallo3_core.toy.learning.trainable_vae import hold_past, trainable_vae
from hallo3_core.vae.autoencoder import LATENT_SCALE, VaeConfig, load_vae
from hallo3_core.weights.vae_names import to_original

SMALL = VaeConfig(block_out_channels=(32, 32, 32, 64), layers_per_block=1)


@pytest.fixture(scope="module")
def footage() -> DrawnFootage:
    return draw_footage(range(4), 21, (32, 48))


def test_footage_is_drawn_once_and_read_back(footage, tmp_path):
    footage.save(tmp_path)
    back = DrawnFootage.load(tmp_path)
    assert np.array_equal(back.frames, footage.frames) and back.captions == footage.captions
    assert back.seeds == (0, 1, 2, 3)
    left, top, right, bottom = footage.boxes[:, 0].T
    assert (right > left).all() and (bottom > top).all()


def test_what_trains_is_what_the_program_runs(footage):
    vae = trainable_vae(SMALL, "cpu").eval()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    used = load_vae({to_original(name): t for name, t in vae.autoencoder.state_dict().items()}, dtype=torch.float32)
    clips = train_vae.VaeBatches(footage, "cpu", 0)
    for frames in (1, 3, 17):
        x, _, _ = clips(2, frames)
        with torch.no_grad():
            ours, theirs = vae.moments(x), used.moments(x)
            torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4)
            latent = theirs.chunk(2, dim=1)[0]
            torch.testing.assert_close(vae.decode(latent), used.decode(latent), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_every_phase_lowers_its_loss(footage, share):
    torch.manual_seed(0)
    vae = trainable_vae(SMALL, "cpu")
    teacher = train_vae.linear_code(train_vae.VaeBatches(footage, "cpu", 0), batches=2)
    optimizer = torch.optim.AdamW(vae.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        torch.manual_seed(1)  # the same clip and noise each time
        loss = train_vae.step_loss(vae, train_vae.VaeBatches(footage, "cpu", 1), teacher, share, 0, 17)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in _used(vae, share))
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0], losses


def _used(vae, share):
    """While pictures are decoded from the teacher's code, the encoder's gradient comes from the code alone."""
    return [p for name, p in vae.named_parameters() if "log" not in name]


def test_pictures_leave_the_weights_of_past_frames_alone(footage):
    vae = trainable_vae(SMALL, "cpu")
    clips = train_vae.VaeBatches(footage, "cpu", 0)
    train_vae.step_loss(vae, clips, train_vae.linear_code(clips, batches=1), 0.0, 0, 2).backward()
    hold_past(vae)
    weight = vae.autoencoder.encoder.mid_block.resnets[0].conv1.conv.weight
    assert not weight.grad[:, :, :-1].any() and weight.grad[:, :, -1].any()


def test_the_teacher_codes_at_the_size_that_the_networks_expect(footage):
    x, weights, _ = train_vae.VaeBatches(footage, "cpu", 0)(6, 9)
    code = fit(x, weights, train_vae.SIZE)
    z = code(x)
    assert z.shape == (6, 16, 3, 4, 6)
    assert (z * LATENT_SCALE).square().mean().sqrt().item() == pytest.approx(1, abs=0.15)
    assert train_vae.psnr(code.decode(z), x) > 20


def test_the_encoder_keeps_colours_before_it_has_learnt(footage):
    """Two plain pictures of different grey have different latents: no norm takes the level away."""
    torch.manual_seed(0)
    vae = trainable_vae(VaeConfig((32, 32, 32, 96), 1), "cpu")
    dark, light = (torch.full((1, 3, 1, 32, 48), level) for level in (-0.5, 0.5))
    with torch.no_grad():
        means = [vae.encode(x) for x in (dark, light)]
    middle = [mean[..., 1:-1, 1:-1].mean((2, 3, 4)) for mean in means]
    assert (middle[0] - middle[1]).abs().max() > 0.1


def test_training_goes_on_from_its_state(footage, tmp_path):
    recipe, lines = train_vae.Recipe(2, 1e-3), []
    arguments = dict(state=tmp_path / "state.safetensors", recipe=recipe, on_line=lines.append)
    first = train_vae.train_vae(footage, SMALL, seconds=2.0, **arguments)
    again = train_vae.train_vae(footage, SMALL, seconds=2.0, **arguments)  # its time is spent: nothing more is learnt
    assert all(torch.equal(first[name], again[name]) for name in first)
    load_vae(first)


def test_rates_rise_hold_and_fall():
    assert rate(0.0, 0, warm_up=10) == pytest.approx(0.1)
    assert rate(0.3, 100) == 1
    assert rate(0.75, 100) == pytest.approx(0.5)
    assert 0 < rate(1.0, 100) < 0.05
    with pytest.raises(ValueError, match="some time"):
        Budget(0)
    assert Budget(10, spent=11).over
