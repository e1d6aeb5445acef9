"""Where memory is short the host loads some layers, and brings the others as they are used.

A fake device, since on a CPU every load is a whole one: it refuses an operation on tensors of two
devices, as a real one does.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from tools.testbed.fake_device import FakeDevice

SHARES = (0.05, 0.3, 0.6, 0.9)  # of the first, a host may find that nothing fits


@pytest.fixture(autouse=True)
def as_the_card_needs_it(pack, monkeypatch):
    """The host's attention asks a GPU for its memory; tensors of inference mode cannot be exchanged."""
    management = pack("nodes.host.memory").management
    ask = lambda device=None, torch_free_too=False: (2**40, 2**40) if torch_free_too else 2**40  # noqa: E731
    monkeypatch.setattr(management, "get_free_memory", ask, raising=False)
    with torch.inference_mode(False):
        yield


@pytest.fixture
def release(models):
    return models / "hallo3" / "tiny"


def places(patcher) -> set[str]:
    return {parameter.device.type for parameter in patcher.model.parameters()}


@contextmanager
def in_part(patcher, share: float):
    """Puts that share of a network's weights on a fake device and leaves the rest behind; yields the device."""
    size = sum(parameter.nbytes for parameter in patcher.model.parameters())
    with FakeDevice() as fake:
        patcher.load_device = fake.device
        patcher.partially_load(fake.device, int(size * share))
        assert "cpu" in places(patcher)
        yield fake.device


def clip_inputs(pack, config):
    bank, sound = [torch.zeros(1, 2, config.hidden)] * config.layers, torch.zeros(1, 13, 32, config.audio)
    with_null = pack("hallo3_core.pipeline.conditions").WithNull
    return pack("nodes.host.conditions").ClipInputs(
        text=torch.zeros(1, config.text_tokens, config.text_width),
        bank=with_null(bank, bank),
        face=torch.zeros(1, 4, config.face),
        audio=with_null(sound, sound),
        concat=torch.zeros(1, 16, 13, 2, 4),
    )


@pytest.mark.parametrize("choice", ["auto", "bf16"])
@pytest.mark.parametrize("share", SHARES)
def test_the_denoiser_computes_on_the_load_device(pack, release, share, choice):
    guidance = pack("hallo3_core.sampling.guidance")
    patcher = pack("nodes.host.model").load_model(str(release), choice)
    denoiser = patcher.model.diffusion_model
    branches = (guidance.EVERYTHING, guidance.PORTRAIT)
    guider = pack("nodes.host.guider").Guider(patcher, clip_inputs(pack, denoiser.config), guidance.Guidance())
    guider.inner_model, guider.timesteps = patcher.model, (999.0, 499.0)  # as the host and `sample` leave them
    with in_part(patcher, share) as device:
        clip = guider.prepare(branches)
        for step in (0, None):  # modulation that is known, and that is not
            x = torch.zeros(2, 32, 13, 2, 4, device=device)
            out = denoiser(x, torch.zeros(2, device=device), hallo3=clip.of(branches, step))
            assert out.device.type == device.type and out.shape == (2, 16, 13, 2, 4)


@pytest.mark.parametrize("share", SHARES)
def test_text_alone_too(pack, release, share):
    """As core's samplers give it."""
    patcher = pack("nodes.host.model").load_model(str(release))
    config = patcher.model.diffusion_model.config
    with in_part(patcher, share) as device:
        text, noise = torch.zeros(1, config.text_tokens, config.text_width), torch.zeros(1, 16, 13, 2, 4, device=device)
        conds = patcher.model.extra_conds(cross_attn=text, noise=noise, device=device)
        call = conds["hallo3"].process_cond(batch_size=1).concat([])
        x = torch.zeros(1, 32, 13, 2, 4, device=device)
        out = patcher.model.diffusion_model(x, torch.zeros(1, device=device), hallo3=call)
        assert out.device.type == device.type


@pytest.mark.parametrize("share", SHARES)
def test_the_reference_network_computes_on_the_load_device(pack, release, share):
    network = pack("nodes.host.networks").load_reference_net(release, "auto")
    with in_part(network.patcher, share) as device:
        bank = network.module(torch.zeros(1, 16, 4, 8, dtype=network.dtype, device=device))
        assert {features.device.type for features in bank} == {device.type}


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_the_projectors_compute_on_the_gpu(pack, release, share):
    model = pack("nodes.host.model")
    projectors = model.projectors_of(model.load_model(str(release)))
    with in_part(projectors.audio.patcher, share) as device:
        inputs = projectors.audio.module.proj1.in_features
        assert projectors.audio.module(torch.zeros(1, 49, 1, 1, inputs, device=device)).device.type == device.type
    with in_part(projectors.face.patcher, share) as device:
        inputs = projectors.face.module.proj.in_features
        assert projectors.face.module(torch.zeros(1, inputs, device=device)).device.type == device.type


@pytest.mark.parametrize("network", ["vae", "wav2vec2"])
def test_layers_that_the_host_cannot_bring_are_loaded_whole(pack, release, network):
    """However little is offered: the host then hears that memory ran out, and goes on in tiles."""
    if network == "vae":
        patcher = pack("nodes.host.vae").load_host_vae(release).patcher
    else:
        patcher = pack("nodes.host.networks").load_wav2vec_network(release / "wav2vec/wav2vec2-base-960h").patcher
    with FakeDevice() as fake:
        for offered in (0.1, 1000, -1000):
            patcher.partially_load(fake.device, offered)
            assert places(patcher) == {fake.device.type}
            if hasattr(patcher, "partially_unload"):  # to make room for another network, until it is used again
                patcher.partially_unload(torch.device("cpu"), 1000)
                assert places(patcher) == {"cpu", fake.device.type}


@pytest.mark.parametrize("choice", ["auto", "fp8"])
def test_layers_brought_as_they_are_used_compute_the_same(pack, release, choice):
    """Values, which the fake device does not have; each layer by itself, the blocks' own calls among them."""
    guidance, found = pack("hallo3_core.sampling.guidance"), []
    for share in (2.0, 0.4):
        patcher = pack("nodes.host.model").load_model(str(release), choice)
        denoiser = patcher.model.diffusion_model
        patcher.partially_load(torch.device("cpu"), int(share * sum(p.nbytes for p in denoiser.parameters())))
        guider = pack("nodes.host.guider").Guider(patcher, clip_inputs(pack, denoiser.config), guidance.Guidance())
        guider.inner_model, guider.timesteps = patcher.model, (999.0, 499.0)
        clip = guider.prepare((guidance.EVERYTHING, guidance.PORTRAIT))
        x = torch.randn(1, 32, 13, 2, 4, generator=torch.Generator().manual_seed(0))
        found.append(denoiser(x, torch.zeros(1), hallo3=clip.of((guidance.EVERYTHING,), 1)))
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)


def test_what_a_run_keeps_is_asked_for_before_the_model_is_loaded(pack, sampler_of, monkeypatch):
    """A null portrait, all steps' modulation: else the weights take that memory. At each step it is there already."""
    model, guidance = pack("nodes.host.model").Model, pack("hallo3_core.sampling.guidance")
    run_bytes, asked, original = pack("hallo3_core.runtime.activations").run_bytes, [], model.memory_required

    def listening(self, input_shape, cond_shapes={}):  # noqa: B006 (the host's signature)
        asked.append((input_shape[0], original(self, input_shape, cond_shapes)))
        return asked[-1][1]

    monkeypatch.setattr(model, "memory_required", listening)
    for reference, portraits in ((1.0, 1), (1.5, 2)):
        asked.clear()
        sampler = sampler_of(2)
        settings = replace(sampler.settings, guidance=guidance.Guidance(guidance.Scales(reference, 3.5, 3.5)))
        with torch.inference_mode():
            replace(sampler, settings=settings).sample(0, None)
        network = sampler.patcher.model
        config, dtype = network.diffusion_model.config, network.compute_dtype
        grid = pack("hallo3_core.model.config").Grid(13, 1, 2)
        kept = run_bytes(config, grid, portraits, sounds=2, steps=2, dtype=dtype)
        first, *steps = [needed - original(network, (n, 16, 13, 2, 4)) for n, needed in asked]
        assert first == kept > 0
        assert all(more in (0, 1, kept) for more in steps)  # core's own asks for two samples too before it loads
