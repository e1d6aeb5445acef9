"""Every benchmark runs one round at toy size and reports results; the plain path matches the fast path."""

import json

import pytest
import torch

from benchmarks import clip, step
from tools.testbed import plain
from tools.testbed.fake_device import FakeDevice
from tools.testbed.measuring import Phases
from tools.testbed.presets import PRESETS, build_networks, conditions_of, draw_inputs


def last_line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_step(capsys):
    step.main(["--preset", "smallest", "--runs", "2"])
    found = last_line(capsys)
    for path in ("plain", "fast", "projectors"):
        seconds = found[path]["seconds"]
        assert len(seconds) == 2 and found[path]["best"] == min(seconds) <= found[path]["median"] <= max(seconds)
    assert found["largest_difference"] < 2e-5


def test_clip(capsys):
    clip.main(["--preset", "smallest", "--steps", "1"])
    phases = last_line(capsys)["phases"]
    assert list(phases) == ["portrait", "sound and face", "what is constant", "encode", "steps", "decode"]
    assert all(phase["seconds"] >= 0 for phase in phases.values())


@pytest.mark.parametrize("batch", [1, 2])
def test_the_plain_path_is_the_same_function(batch):
    """The plain path computes everything at each step, with the portrait's tokens as queries too. The results agree."""
    sizes = PRESETS["smallest"]
    with torch.inference_mode():
        networks, inputs = build_networks(sizes), draw_inputs(sizes)
        denoiser, latent = networks.denoiser, draw_inputs(sizes, seed=5).latent.expand(batch, -1, -1, -1, -1)
        layout = denoiser.layout(sizes.denoiser.grid, torch.float32)
        modulation = denoiser.modulate_steps(torch.tensor([123.0]), torch.float32)
        fast = denoiser(latent, inputs.concat, conditions_of(networks, [inputs] * batch), modulation, layout)
        slow = plain.velocity(networks, inputs, latent, 123.0, layout)
    assert torch.allclose(fast, slow, atol=1e-5)


@pytest.mark.parametrize("time", ["first", "again"])
def test_peak_memory_is_that_of_the_phase(time):
    with FakeDevice() as fake:
        phase = Phases(fake.device)
        phase("large", lambda: torch.ones(100_000_000, device=fake.device).sum())
        phase("small", lambda: torch.ones(1_000_000, device=fake.device).sum())
    assert (phase.found["large"]["peak_GB"], phase.found["small"]["peak_GB"]) == (0.4, 0.004)
