"""Core's own nodes on our MODEL, in a real ComfyUI: those that work, and those that are refused."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.skipif(not os.environ.get("COMFYUI_PATH"), reason="needs ComfyUI's own nodes")

LORA_LAYER = "blocks.0.self_attention.out"


@pytest.fixture
def sample(pack, loaded, scene):
    """A clip's latent by the node Hallo3SampleClip on a MODEL."""

    def run(model, **changes) -> torch.Tensor:
        inputs = dict(
            clip_index=0, seed=11, steps=12, sampler="dpmpp-2m", audio_cfg=3.5, text_cfg=3.5, reference_cfg=1.0
        )
        return (
            pack("nodes.sampling")
            .Hallo3SampleClip()
            .execute(model=model, vae=loaded.vae, **vars(scene), **{**inputs, **changes})[0]["samples"]
        )

    return run


@pytest.fixture
def model_calls(pack, monkeypatch):
    """How often the network was asked."""
    network = pack("nodes.host.model").HostDenoiser
    calls, original = [], network._call
    monkeypatch.setattr(network, "_call", lambda self, *args: calls.append(1) or original(self, *args))
    return calls


def test_easy_cache_skips_steps_and_stays_near(loaded, sample, model_calls):
    nodes = pytest.importorskip("comfy_extras.nodes_easycache")
    plain = sample(loaded.model)
    steps = len(model_calls)
    cached = nodes.EasyCacheNode.execute(loaded.model, 1.0, 0.15, 0.95, False)[0]
    model_calls.clear()
    near = sample(cached)
    assert 0 < len(model_calls) < steps
    assert (near - plain).std() < 0.5 * plain.std()


def test_lazy_cache_is_refused_in_words(pack, loaded, sample):
    nodes = pytest.importorskip("comfy_extras.nodes_easycache")
    cached = nodes.LazyCacheNode.execute(loaded.model, 0.2, 0.15, 0.95, False)[0]
    with pytest.raises(pack("hallo3_core.errors").InputError, match="use EasyCache instead"):
        sample(cached)


def test_model_compute_dtype_changes_what_is_computed_in(pack, loaded, sample):
    advanced = pytest.importorskip("comfy_extras.nodes_model_advanced")
    halved = advanced.ModelComputeDtype().patch(loaded.model, "bf16")[0]
    seen, network = [], pack("nodes.host.model").HostDenoiser
    original = network._call
    network._call = lambda self, x, *rest: seen.append(x.dtype) or original(self, x, *rest)
    try:
        sample(halved, steps=2)
    finally:
        network._call = original
    assert set(seen) == {torch.bfloat16}


def test_core_s_lora_loader_takes_our_names(loaded, sample, tmp_path, models):
    import nodes

    width = loaded.model.model.diffusion_model.config.hidden
    draw = torch.Generator().manual_seed(1)
    up, down = (torch.randn(*shape, generator=draw) * 0.2 for shape in ((width, 4), (4, width)))
    path = models / "loras" / "ours.safetensors"
    key = f"diffusion_model.{LORA_LAYER}"
    save_file({f"{key}.lora_B.weight": up, f"{key}.lora_A.weight": down}, path)
    try:
        patched = nodes.LoraLoaderModelOnly().load_lora_model_only(loaded.model, "ours.safetensors", 1.0)[0]
        assert not torch.equal(sample(patched, steps=2), sample(loaded.model, steps=2))
    finally:
        path.unlink()


def test_model_save_writes_a_file_that_our_loader_takes(pack, loaded, sample, tmp_path):
    import comfy.sd

    path = tmp_path / "saved.safetensors"
    comfy.sd.save_checkpoint(str(path), loaded.model)
    assert any(name.startswith("model.diffusion_model.blocks.0.") for name in load_file(path))
    save_projectors(pack, loaded, tmp_path)
    again = pack("nodes.host.model").load_model(str(path))
    assert torch.equal(sample(again, steps=2), sample(loaded.model, steps=2))


def save_projectors(pack, loaded, folder) -> None:
    """As `convert` writes them beside the denoiser."""
    projectors = loaded.model.get_attachment(pack("nodes.host.model").PROJECTORS)
    tensors = {f"audio_projector.{name}": tensor for name, tensor in projectors.audio.module.state_dict().items()}
    tensors |= {f"face_projector.{name}": tensor for name, tensor in projectors.face.module.state_dict().items()}
    save_file(tensors, folder / pack("nodes.host.checkpoint").PROJECTORS_FILE)


def test_core_s_ksampler_runs_the_text_alone(loaded, scene):
    import comfy.sample

    latent = torch.zeros(1, 16, 13, 2, 4)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(2))
    found = comfy.sample.sample(
        loaded.model, noise, 4, 3.5, "euler", "normal", scene.text, scene.text, latent, seed=2, disable_pbar=True
    )
    assert found.shape == latent.shape and torch.isfinite(found).all() and found.std() > 0.1
