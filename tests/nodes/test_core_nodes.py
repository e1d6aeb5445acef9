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


def test_noise_scale_is_refused_in_words(pack, loaded):
    nodes = pytest.importorskip("comfy_extras.nodes_model_advanced")
    if not hasattr(nodes, "ModelNoiseScale"):
        pytest.skip("this ComfyUI does not have it")
    with pytest.raises(pack("hallo3_core.errors").InputError, match="changes the noise levels of flow models"):
        nodes.ModelNoiseScale().patch(loaded.model, 2.0)


def test_merging_takes_an_fp8_model_first_and_refuses_it_second(pack, loaded, sample):
    merge = pytest.importorskip("comfy_extras.nodes_model_merging").ModelMergeSimple().merge
    half = pack("nodes.loaders").Hallo3ModelLoader().execute("hallo3/tiny/", "fp8")[0]
    with pytest.raises(pack("hallo3_core.errors").InputError, match="swap model1 and model2"):
        merge(loaded.model, half, 0.5)
    assert sample(merge(half, loaded.model, 0.5)[0], steps=1).isfinite().all()


def test_core_s_lora_loader_says_that_it_does_not_know_the_names(pack, loaded):
    import comfy.sd

    lora = {
        f"transformer.transformer_blocks.0.attn1.to_q.lora_{half}.weight": torch.zeros(*shape)
        for half, shape in (("A", (4, 64)), ("B", (64, 4)))
    }
    with pytest.raises(pack("hallo3_core.errors").InputError, match="Use the node Hallo3 LoRA Loader"):
        comfy.sd.load_lora_for_models(loaded.model, None, lora, 1.0, 0.0)


def test_steps_that_easy_cache_skips_are_not_counted(pack, loaded, sample, model_calls, monkeypatch):
    nodes, texts = pytest.importorskip("comfy_extras.nodes_easycache"), []
    monkeypatch.setattr(pack("nodes.host.progress"), "show_text", lambda text, node_id: texts.append(text))
    sample(loaded.model, node_id="3")
    assert texts[-1] == "2 model calls a step, 24 in all"
    model_calls.clear()
    sample(nodes.EasyCacheNode.execute(loaded.model, 1.0, 0.15, 0.95, False)[0], node_id="3")
    made = 2 * len(model_calls)  # both branches at once
    assert made < 24 and texts[-1] == f"2 model calls a step, {made} in all, {24 - made} saved by EasyCache"


def test_the_attention_backend_node_computes_the_same(loaded, sample):
    """Its functions are given more keys than queries: the portrait's are among them."""
    nodes = pytest.importorskip("comfy_extras.nodes_model_advanced")
    if not hasattr(nodes, "ModelAttentionBackend"):
        pytest.skip("this ComfyUI does not have it")
    chosen = nodes.ModelAttentionBackend().patch(loaded.model, "pytorch attention")[0]
    assert "optimized_attention_override" in chosen.model_options["transformer_options"]
    torch.testing.assert_close(sample(chosen, steps=2), sample(loaded.model, steps=2), atol=1e-4, rtol=0)
