"""What other nodes put on our MODEL or our CONDITIONING is applied, or refused by the node's name."""

from __future__ import annotations

import importlib

import pytest
import torch

from tests.nodes.conftest import REAL, SETTINGS


@pytest.fixture
def error(pack):
    return pack("hallo3_core.errors").InputError


@pytest.fixture
def sample(pack, loaded, scene):
    """A clip's latent on a MODEL, by the node Hallo3SampleClip."""
    node = pack("nodes.sampling").Hallo3SampleClip

    def run(model, **changes) -> torch.Tensor:
        inputs = dict(model=model, vae=loaded.vae, clip_index=0, seed=11, **vars(scene), **SETTINGS)
        return node().execute(**{**inputs, **changes})[0]["samples"]

    return run


@pytest.fixture
def patched(loaded):
    """`patched(key, value)`: our MODEL with a function of another node in its options."""

    def make(key: str, value):
        model = loaded.model.clone()
        model.model_options = {**model.model_options, key: value}
        return model

    return make


class RescaleCFG:
    """Stands for nodes that compute guidance themselves; this one as the host's own formula."""

    def patch(self, factor=1.0):
        def plain(args):
            return args["uncond"] + factor * args["cond_scale"] * (args["cond"] - args["uncond"])

        return plain


class APG:
    """Stands for nodes that change the two results before guidance."""

    def patch(self, factor=1.0):
        def before(args):
            cond, uncond = args["conds_out"]
            return [uncond + factor * (cond - uncond), uncond]

        return before


class SkipGuidanceSimple:
    """Stands for nodes that evaluate the two branches themselves."""

    def patch(self):
        import comfy.samplers

        def calculate(args):
            evaluate = comfy.samplers.calc_cond_batch
            return evaluate(args["model"], args["conds"], args["input"], args["sigma"], args["model_options"])

        return calculate


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_guidance_of_another_node_is_applied(pack, loaded, sample, patched, factor):
    """Its own formula with a smaller scale is our guidance with that scale."""
    expected = sample(loaded.model, audio_cfg=3.5 * factor, text_cfg=3.5 * factor)
    for model in (
        patched("sampler_cfg_function", RescaleCFG().patch(factor)),
        patched("sampler_pre_cfg_function", [APG().patch(factor)]),
    ):
        torch.testing.assert_close(sample(model), expected, atol=1e-4, rtol=0)


def test_branches_evaluated_by_another_node_are_the_branches(loaded, sample, patched):
    model = patched("sampler_calc_cond_batch_function", SkipGuidanceSimple().patch())
    torch.testing.assert_close(sample(model), sample(loaded.model), atol=1e-5, rtol=0)


PAIRWISE = [
    ("sampler_cfg_function", RescaleCFG().patch(), "RescaleCFG"),
    ("sampler_pre_cfg_function", [APG().patch()], "APG"),
    ("sampler_calc_cond_batch_function", SkipGuidanceSimple.patch, "SkipGuidanceSimple"),
]


@pytest.mark.parametrize(("key", "function", "name"), PAIRWISE)
@pytest.mark.parametrize("scales", [dict(audio_cfg=2.0), dict(audio_cfg=1.0, text_cfg=1.0)])
def test_what_needs_two_branches_is_refused_without_two(error, sample, patched, key, function, name, scales):
    with pytest.raises(error, match=f"{name} does not work with Hallo3: .* set text_cfg to audio_cfg"):
        sample(patched(key, function), **scales)


def test_what_follows_guidance_is_applied_and_may_ask_for_a_scale_where_there_is_one(error, loaded, sample, patched):
    def halve(args):
        return args["denoised"] / 2

    def by_scale(args):
        return args["denoised"] * (args["cond_scale"] / 3.5)

    assert not torch.allclose(sample(patched("sampler_post_cfg_function", [halve])), sample(loaded.model), atol=1e-3)
    torch.testing.assert_close(sample(patched("sampler_post_cfg_function", [by_scale])), sample(loaded.model))
    sample(patched("sampler_post_cfg_function", [halve]), audio_cfg=2.0)
    with pytest.raises(error, match="more than two model calls"):
        sample(patched("sampler_post_cfg_function", [by_scale]), audio_cfg=2.0)


class PerturbedAttention:
    def patch(self):
        import comfy.samplers

        def after(args):
            options = comfy.model_patcher.set_model_options_patch_replace(args["model_options"], None, "attn1", "b", 0)
            return comfy.samplers.calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)

        return after


def test_what_replaces_blocks_is_refused_before_the_first_step(error, sample, patched):
    with pytest.raises(
        error, match="PerturbedAttention does not work with Hallo3: it runs the model with other blocks"
    ):
        sample(patched("sampler_post_cfg_function", [PerturbedAttention().patch()]))


class FreeU:
    def output_block_patch(self, h, hsp, options):
        return h, hsp


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patches": {"output_block_patch": [FreeU().output_block_patch]}}, "FreeU"),
        ({"patches_replace": {"dit": {("double_block", 7): FreeU.output_block_patch}}}, "FreeU"),
        ({"rope_options": {"scale_x": 2.0}}, "ScaleROPE"),
    ],
)
def test_what_changes_blocks_is_refused(error, loaded, sample, options, words):
    model = loaded.model.clone()
    model.model_options = {"transformer_options": {**model.model_options["transformer_options"], **options}}
    with pytest.raises(error, match=f"{words} does not work with Hallo3"):
        sample(model)


class ModelSamplingSD3:
    def patch(self):
        class ModelSamplingAdvanced:
            pass

        return ModelSamplingAdvanced()


@pytest.mark.parametrize(
    ("name", "words"), [("model_sampling", "ModelSamplingSD3 .* noise levels"), ("latent_format", "latent_format")]
)
def test_parts_of_the_model_that_others_exchange_are_refused(error, loaded, sample, name, words):
    model = loaded.model.clone()
    model.object_patches = {name: ModelSamplingSD3().patch()}
    with pytest.raises(error, match=words):
        sample(model)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (dict(start_percent=0.2), "ConditioningSetTimestepRange"),
        (dict(end_percent=0.5), "ConditioningSetTimestepRange"),
        (dict(strength=0.5), "ConditioningSetAreaStrength"),
        (dict(area=(2, 2, 0, 0)), "ConditioningSetArea"),
        (dict(mask=torch.ones(1, 4, 4)), "ConditioningSetMask"),
        (dict(control=object()), "ControlNetApply"),
        (dict(guidance=3.5), "FluxGuidance"),
        (dict(reference_latents=[torch.zeros(1)]), "ReferenceLatent"),
    ],
)
def test_other_conditioning_beside_the_text_is_refused_by_name(error, loaded, scene, sample, extra, words):
    (text, own), *_ = scene.text
    with pytest.raises(error, match=f"{words} does not work with Hallo3"):
        sample(loaded.model, text=[[text, {**own, **extra}]])


def test_conditioning_without_effect_beside_the_text_is_accepted(loaded, scene, sample, caplog):
    (text, own), *_ = scene.text
    extra = dict(start_percent=0.0, end_percent=1.0, strength=1.0, area=None, mine=3)
    assert torch.equal(sample(loaded.model, text=[[text, {**own, **extra}]]), sample(loaded.model))
    assert "the conditioning holds 'mine', which Hallo3 does not use" in caplog.text


def test_text_alone_is_reported_on_the_node(pack, loaded, scene, monkeypatch):
    """Core's KSampler on our MODEL: no portrait and no voice take part."""
    messages, texts = pack("nodes.host.messages"), []
    monkeypatch.setattr(messages, "_send", lambda text, node_id: texts.append((text, node_id)))
    monkeypatch.setattr(messages, "_context", lambda: type("Context", (), dict(node_id="9", prompt_id="a")))
    (text, _), *_ = scene.text
    inputs = dict(noise=torch.zeros(1, 16, 13, 2, 4), device=torch.device("cpu"), cross_attn=text)
    for kind in ("positive", "negative"):
        loaded.model.model.extra_conds(**inputs, prompt_type=kind)
    ((said, node),) = texts
    assert node == "9" and "from the prompt alone, without portrait and voice" in said


def test_core_s_samplers_refuse_other_noise_levels_too(error, loaded, scene):
    model = loaded.model.model
    own, model.model_sampling = model.model_sampling, torch.nn.Module()
    try:
        with pytest.raises(error, match="noise levels"):
            model.extra_conds(noise=torch.zeros(1, 16, 13, 2, 4), cross_attn=scene.text[0][0])
    finally:
        model.model_sampling = own


# In a real ComfyUI ----------------------------------------------------------------------------------------------

APPLIED = {
    "RescaleCFG": ("model_advanced", dict(multiplier=0.7)),
    "APG": ("apg", dict(eta=0.5, norm_threshold=1.0, momentum=0.0)),
    "TCFG": ("tcfg", {}),
    "FreSca": ("fresca", dict(scale_low=0.5, scale_high=1.25, freq_cutoff=2)),
    "Mahiro": ("mahiro", {}),
    "CFGZeroStar": ("cfg", {}),
    "EpsilonScaling": ("eps", dict(scaling_factor=1.1)),
}
REFUSED = {
    "ModelSamplingSD3": ("model_advanced", dict(shift=3.0)),
    "ModelSamplingDiscrete": ("model_advanced", dict(sampling="v_prediction", zsnr=True)),
    "ModelSamplingContinuousEDM": ("model_advanced", dict(sampling="v_prediction", sigma_max=120.0, sigma_min=0.002)),
    "SkipLayerGuidanceDiT": (
        "slg",
        dict(scale=3.0, start_percent=0.01, end_percent=0.15, double_layers="0", single_layers=""),
    ),
    "SkipLayerGuidanceDiTSimple": ("slg", dict(start_percent=0.0, end_percent=1.0, double_layers="0")),
    "PerturbedAttentionGuidance": ("pag", dict(scale=3.0)),
    "FreeU_V2": ("freelunch", dict(b1=1.3, b2=1.4, s1=0.9, s2=0.2)),
    "HyperTile": ("hypertile", dict(tile_size=256, swap_size=2, max_depth=0, scale_depth=False)),
    "TomePatchModel": ("tomesd", dict(ratio=0.3)),
    "ScaleROPE": (
        "rope",
        dict(scale_x=2.0, shift_x=0.0, scale_y=1.0, shift_y=0.0, scale_t=1.0, shift_t=0.0),
    ),
}


def with_node(name: str, place: str, options: dict, model):
    node = getattr(importlib.import_module(f"comfy_extras.nodes_{place}"), name)
    if hasattr(node, "define_schema"):
        return node.execute(model, **options)[0]
    return getattr(node(), node.FUNCTION)(model, **options)[0]


@pytest.mark.skipif(not REAL, reason="needs ComfyUI's own nodes")
@pytest.mark.parametrize("name", APPLIED)
def test_core_s_guidance_nodes_are_applied(loaded, sample, name):
    found, plain = sample(with_node(name, *APPLIED[name], loaded.model)), sample(loaded.model)
    assert found.isfinite().all() and not torch.allclose(found, plain, atol=1e-3)


@pytest.mark.skipif(not REAL, reason="needs ComfyUI's own nodes")
@pytest.mark.parametrize("name", REFUSED)
def test_core_s_other_patches_are_refused_by_name(error, loaded, sample, name):
    with pytest.raises(error, match=name.partition("_")[0][:14]):
        sample(with_node(name, *REFUSED[name], loaded.model))


def test_a_lora_of_which_no_name_fits_is_refused_on_the_node(pack, loaded):
    """Core's LoRA loaders then give no patches, and say so in the log only."""
    error = pack("hallo3_core.errors").InputError
    for model in (loaded.model, loaded.model.clone(), loaded.model.clone().clone()):
        with pytest.raises(error, match="Use the node Hallo3 LoRA Loader"):
            model.clone().add_patches({}, 1.0)


def test_an_attribute_of_flow_models_is_answered_in_words_where_it_is_read(pack, loaded):
    sampling = loaded.model.model.model_sampling
    for name in ("shift", "multiplier", "set_noise_scale"):
        assert not hasattr(sampling, name) and getattr(sampling, name, 5) == 5
        with pytest.raises(pack("hallo3_core.errors").InputError, match="changes the noise levels of flow models"):
            getattr(sampling, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sampling.__getattr__("nothing")


def test_steps_that_a_cache_skips_are_not_counted_as_run(pack):
    sampling, options = pack("nodes.host.sampling"), pack("hallo3_core.pipeline.options")
    settings = options.Settings(steps=10)
    assert sampling.cost(settings) == "2 model calls a step, 20 in all"
    assert sampling.cost(settings, 3, saved=8) == "2 model calls a step, 52 in all, 8 saved by EasyCache"
