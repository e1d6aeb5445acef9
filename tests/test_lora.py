"""LoRAs change the network identically under every naming scheme."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hallo3_core.errors import InputError
from hallo3_core.model.config import Grid, TransformerConfig
from hallo3_core.model.denoiser import Conditions, Denoiser
from hallo3_core.model.positions import rotary_table
from hallo3_core.model.scaled import ScaledLinear, put_in_place
from hallo3_core.release.lora.applying import apply_lora
from hallo3_core.release.lora.file import LoraFile
from hallo3_core.release.lora.layers import lora_targets, weight_shapes
from hallo3_core.release.lora.matching import match_lora
from hallo3_core.weights import fp8

pytestmark = pytest.mark.usefixtures("no_gradients")

RANK = 3
BASE = TransformerConfig(
    hidden=32,
    heads=2,
    layers=2,
    mlp=128,
    time=24,
    text_width=20,
    text_tokens=5,
    grid=Grid(3, 2, 3),
    channels=4,
    patch=2,
    face=None,
    audio=None,
)
LAYERS = {  # layers of diffusers' transformer that a LoRA may change: rows and columns
    "patch_embed.proj": (32, 8, 2, 2),
    "patch_embed.text_proj": (32, 20),
    "time_embedding.linear_1": (24, 32),
    "time_embedding.linear_2": (24, 24),
    "norm_out.linear": (64, 24),
    "proj_out": (16, 32),
    **{f"transformer_blocks.{n}.attn1.to_{kind}": (32, 32) for n in range(2) for kind in ("q", "k", "v", "out.0")},
    **{f"transformer_blocks.{n}.ff.net.0.proj": (128, 32) for n in range(2)},
    **{f"transformer_blocks.{n}.ff.net.2": (32, 128) for n in range(2)},
    **{f"transformer_blocks.{n}.norm{i}.linear": (192, 24) for n in range(2) for i in (1, 2)},
}


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """diffusers' CogVideoX transformer at toy size, with random weights."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8,
        out_channels=4,
        time_embed_dim=24,
        text_embed_dim=20,
        num_layers=2,
        sample_width=6,
        sample_height=4,
        sample_frames=9,
        patch_size=2,
        max_text_seq_length=5,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=True,
    ).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False).copy_(torch.randn_like(parameter) * 0.2 + ("norm" in name))
    model.patch_embed.pos_embedding.normal_()
    return model


def ours_from(theirs: nn.Module) -> Denoiser:
    """Our denoiser with diffusers' weights, biases and tables, mapped with the LoRA name map."""
    model, weights = Denoiser(BASE), theirs.state_dict()
    own = dict(model.named_parameters())
    for stem, targets in lora_targets(BASE).items():
        for name, start, rows, their_start in targets:
            for kind in ("weight", "bias"):
                if f"{stem}.{kind}" in weights:
                    target = own[name.removesuffix("weight") + kind]
                    target[start : start + rows] = weights[f"{stem}.{kind}"][their_start : their_start + rows]
    text, video = weights["patch_embed.pos_embedding"][0].split((BASE.text_tokens, BASE.grid.tokens))
    own["text_positions"].copy_(text)
    own["video_positions"].copy_(video.view_as(own["video_positions"]))
    norms = {
        f"blocks.{n}.{a}": f"transformer_blocks.{n}.{b}.norm"
        for n in range(2)
        for a, b in (("attention_norm", "norm1"), ("mlp_norm", "norm2"))
    }
    for name, source in {**norms, "final_norm": "norm_final", "head_norm": "norm_out.norm"}.items():
        for kind in ("weight", "bias"):
            own[f"{name}.{kind}"].copy_(weights[f"{source}.{kind}"])
    return model.eval()


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    latent, concat = (torch.randn(1, 4, 3, 4, 6, generator=draw) for _ in range(2))
    return latent, concat, torch.randn(1, 5, 20, generator=draw), torch.tensor([321.0])


def run_ours(model: Denoiser) -> Tensor:
    latent, concat, text, timestep = inputs()
    conditions = Conditions(model.embed_text(text))
    layout = model.layout(BASE.grid, torch.float32)
    return model(latent, concat, conditions, model.modulate_steps(timestep, torch.float32), layout)


def run_theirs(model: nn.Module) -> Tensor:
    latent, concat, text, timestep = inputs()
    table = rotary_table(BASE.grid, BASE.grid, BASE.head)
    rotary = tuple(x.repeat_interleave(2, dim=1) for x in table.turns.unbind(-1))
    both = torch.cat((latent, concat), dim=1).transpose(1, 2)
    return model(both, text, timestep, image_rotary_emb=rotary).sample.transpose(1, 2)


def make_lora(stems=LAYERS, seed: int = 2) -> dict[str, tuple[Tensor, Tensor]]:
    """stem -> up, down"""
    draw, pairs = torch.Generator().manual_seed(seed), {}
    for stem in stems:
        rows, columns, *patch = LAYERS[stem]
        up = torch.randn(rows, RANK, *(1 for _ in patch), generator=draw) * 0.3
        pairs[stem] = up, torch.randn(RANK, columns, *patch, generator=draw) * 0.3
    return pairs


def in_diffusers_naming(pairs, prefix: str = "transformer.", alpha: float | None = None) -> dict[str, Tensor]:
    tensors = {}
    for stem, (up, down) in pairs.items():
        tensors |= {f"{prefix}{stem}.lora_B.weight": up, f"{prefix}{stem}.lora_A.weight": down}
        if alpha is not None:
            tensors[f"{prefix}{stem}.alpha"] = torch.tensor(alpha)
    return tensors


def in_kohya_naming(pairs, alpha: float) -> dict[str, Tensor]:
    tensors = {}
    for stem, (up, down) in pairs.items():
        name = "lora_unet_" + stem.replace(".", "_")
        tensors |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def merge_theirs(model: nn.Module, pairs, scale: float) -> dict[str, Tensor]:
    """Merges the LoRA into diffusers' weights by definition, up @ down."""
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for stem, (up, down) in pairs.items():
        weight = weights[f"{stem}.weight"]
        weight += scale * (up.flatten(1) @ down.flatten(1)).view_as(weight)
    return weights


def match(tensors, metadata=None, config=BASE):
    return match_lora(tensors, config, label="toy.safetensors", metadata=metadata or {})


def test_the_trunk_is_cogvideox(theirs):
    expected = run_theirs(theirs)
    torch.testing.assert_close(run_ours(ours_from(theirs)), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("stem", [None, *LAYERS])
def test_a_lora_changes_the_network_as_it_changes_diffusers(theirs, stem):
    """All layers together, and each separately."""
    pairs, model = make_lora([stem] if stem else LAYERS), ours_from(theirs)
    plain = run_theirs(theirs)
    merged = ours_diffusers(theirs, merge_theirs(theirs, pairs, 0.7))
    applied = apply_lora(model, match(in_diffusers_naming(pairs)), 0.7)
    expected = run_theirs(merged)
    assert (expected - plain).abs().max() > 1e-3
    torch.testing.assert_close(run_ours(model), expected, atol=5e-5, rtol=5e-5)
    assert not applied.unknown and len(applied.names) == len(set(applied.names))


def ours_diffusers(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    other = type(model).from_config(model.config).eval()
    other.load_state_dict(weights)
    return other


def test_every_naming_is_the_same_lora(theirs):
    pairs = make_lora()
    forms = [
        in_diffusers_naming(pairs),
        in_diffusers_naming(pairs, prefix=""),
        in_diffusers_naming(pairs, prefix="base_model.model."),
        in_diffusers_naming(pairs, prefix="base_model.model.transformer."),
        in_diffusers_naming(pairs, alpha=float(RANK)),
        {
            k.replace("lora_A", "lora_A.default").replace("lora_B", "lora_B.default"): v
            for k, v in in_diffusers_naming(pairs).items()
        },
        in_kohya_naming(pairs, alpha=float(RANK)),
    ]
    changed = []
    for tensors in forms:
        model = ours_from(theirs)
        apply_lora(model, match(tensors))
        changed.append(model.state_dict())
    for weights in changed[1:]:
        assert all(torch.equal(weights[name], tensor) for name, tensor in changed[0].items())


def test_our_own_names_reach_every_weight():
    """Also face and audio attention, which no other naming scheme has."""
    config = TransformerConfig(**{**vars(BASE), "face": 6, "audio": 7})
    shapes = {name: shape for name, shape in weight_shapes(config).items() if len(shape) == 2}
    tensors = {}
    for name, (rows, columns) in shapes.items():
        stem = "diffusion_model." + name.removesuffix(".weight")
        tensors |= {f"{stem}.lora_A.weight": torch.ones(1, columns), f"{stem}.lora_B.weight": torch.ones(rows, 1)}
    model = Denoiser(config)
    for parameter in model.parameters():
        parameter.zero_()  # uninitialised memory may hold NaN
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    applied = apply_lora(model, match(tensors, config=config), strength=0.5)
    assert set(applied.names) == shapes.keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name] + 0.5 if name in shapes else before[name])


def test_targets_cover_each_fused_row_once():
    """Queries, keys and values cover their matrix, and the two norms the modulation: each row exactly once."""
    targets = lora_targets(BASE)
    rows: dict[str, list[int]] = {}
    for stem in LAYERS:
        for target in targets[stem]:
            rows.setdefault(target.name, []).extend(range(target.start, target.start + target.rows))
        theirs = [row for t in targets[stem] for row in range(t.their_start, t.their_start + t.rows)]
        assert sorted(theirs) == list(range(LAYERS[stem][0]))
    shapes = weight_shapes(BASE)
    for name, found in rows.items():
        assert sorted(found) == list(range(shapes[name][0]))


@pytest.mark.parametrize("strength", [-1.0, 0.0, 0.25, 2.0])
def test_strength_and_alpha_scale_the_change(theirs, strength):
    pairs = make_lora(["transformer_blocks.1.attn1.to_k"])
    name = "blocks.1.self_attention.qkv.weight"
    up, down = pairs["transformer_blocks.1.attn1.to_k"]
    for tensors, metadata, scale in (
        (in_diffusers_naming(pairs), {}, 1.0),
        (in_diffusers_naming(pairs, alpha=6.0), {}, 2.0),
        (in_diffusers_naming(pairs), adapter(lora_alpha=12), 4.0),
        (in_diffusers_naming(pairs), adapter(lora_alpha=12, use_rslora=True), 12 / RANK**0.5),
    ):
        model = ours_from(theirs)
        before = model.state_dict()[name].clone()
        apply_lora(model, match(tensors, metadata), strength)
        change = model.state_dict()[name] - before
        torch.testing.assert_close(change[32:64], strength * scale * up @ down, atol=1e-5, rtol=1e-4)
        assert not change[:32].any() and not change[64:].any()


def adapter(**settings) -> dict[str, str]:
    """LoRA settings as diffusers writes them in a file's metadata."""
    return {"lora_adapter_metadata": json.dumps({f"transformer.{name}": value for name, value in settings.items()})}


def test_a_layer_in_fp8_holds_the_whole_lora(theirs, caplog):
    """Rounding to fp8 again would lose most of the LoRA, so the layer is dequantised."""
    pairs, model, name = make_lora(["transformer_blocks.0.ff.net.2"]), ours_from(theirs), "blocks.0.mlp.down"
    linear = model.get_submodule(name)
    rounded, scale = fp8.quantise(linear.weight)
    put_in_place(model, name)
    layer = model.get_submodule(name)
    layer.weight, layer.weight_scale, layer.bias = (
        nn.Parameter(x, requires_grad=False) for x in (rounded, scale, linear.bias)
    )
    assert isinstance(model.get_submodule(name), ScaledLinear)
    up, down = pairs["transformer_blocks.0.ff.net.2"]
    apply_lora(model, match(in_diffusers_naming(pairs)), 1e-3)
    torch.testing.assert_close(model.get_submodule(name).weight, rounded.float() * scale + 1e-3 * up @ down)
    assert "1 layers are no longer in 8 bits" in caplog.text


def test_what_is_not_understood_is_listed_and_left_alone(theirs, caplog):
    pairs = make_lora(["transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn1.to_v"])
    tensors = in_diffusers_naming(pairs) | {
        "text_encoder.layers.0.q_proj.lora_A.weight": torch.zeros(3, 4),
        "transformer.transformer_blocks.7.attn1.to_q.lora_A.weight": torch.zeros(3, 32),
        # LoHa, which is not a plain up/down pair
        "transformer.transformer_blocks.0.attn1.to_v.hada_w1_a": torch.ones(32, 2),
        "transformer.transformer_blocks.0.ff.net.2.lora_A.weight": torch.zeros(3, 128),  # one half of a pair
    }
    model = ours_from(theirs)
    before = model.state_dict()["blocks.0.self_attention.qkv.weight"].clone()
    applied = apply_lora(model, match(tensors))
    assert applied.names == ("blocks.0.self_attention.qkv.weight",)
    expected = [key for key in tensors if "to_q" not in key or "blocks.7" in key]
    assert sorted(applied.unknown) == sorted(expected)
    assert all(key in caplog.text for key in sorted(expected)[:3]) and "and 3 more" in caplog.text
    assert "LoHa" in caplog.text and "text encoder" in caplog.text
    assert not (model.state_dict()["blocks.0.self_attention.qkv.weight"] - before)[64:].any()


def test_a_lora_for_another_model_is_refused(tmp_path):
    path = tmp_path / "wan.safetensors"
    save_file({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(InputError, match=r"wan\.safetensors: not a LoRA for this model"):
        LoraFile.open(path).of_denoiser(BASE)
    narrow = {
        "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.zeros(2, 30),
        "transformer.transformer_blocks.0.attn1.to_q.lora_B.weight": torch.zeros(30, 2),
    }
    with pytest.raises(InputError, match="made for another model"):
        match(narrow)
    with pytest.raises(InputError, match="alpha_pattern has a regular expression"):
        match(in_diffusers_naming(make_lora()), adapter(lora_alpha=4, alpha_pattern={"to_(q|k)": 4}))
    with pytest.raises(InputError, match="damaged settings"):
        match(in_diffusers_naming(make_lora()), {"lora_adapter_metadata": "{"})


def test_a_file_is_read_with_its_settings(theirs, tmp_path):
    pairs = make_lora()
    save_file(in_diffusers_naming(pairs), tmp_path / "lora.safetensors", adapter(lora_alpha=2 * RANK))
    assert {patch.scale for patch in LoraFile.open(tmp_path / "lora.safetensors").of_denoiser(BASE).patches} == {2.0}


def changes(model: Denoiser, tensors, metadata=None, strength: float = 1.0) -> dict[str, Tensor]:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    apply_lora(model, match(tensors, metadata), strength)
    return {name: tensor - before[name] for name, tensor in model.state_dict().items()}


Q, NORM = "transformer_blocks.1.attn1.to_k", "transformer_blocks.1.norm1.linear"


@pytest.mark.parametrize(
    "form",
    [
        "lora_unet__{flat}.lora_{AB}.weight",
        "lora_unet_{flat}.lora_{updown}.weight",
        "lora_transformer_{flat}.lora_{updown}.weight",
        "lora_unet_transformer_{flat}.lora_{AB}.weight",
        "lycoris_{flat}.lora_{updown}.weight",
        "lora_diffusion_model_{flat}.lora_{updown}.weight",
        "transformer.{stem}.lora_{AB}.my_style.weight",
        "base_model.model.{stem}.lora_{AB}.style-2.weight",
        "base_model.model.transformer.{stem}.lora_{AB}.weight",
        "module.{stem}.lora_{AB}.v1.0.weight",
        "transformer.{stem}.lora.{updown}.weight",
        "transformer.{stem}.lora_linear_layer.{updown}.weight",
    ],
)
def test_all_names_of_this_model_are_read(theirs, form):
    pairs = make_lora()
    tensors = {}
    for stem, halves in pairs.items():
        for tensor, AB, updown in zip(halves, "BA", ("up", "down"), strict=True):
            tensors[form.format(flat=stem.replace(".", "_"), stem=stem, AB=AB, updown=updown)] = tensor
    found, wanted = (changes(ours_from(theirs), t) for t in (tensors, in_diffusers_naming(pairs)))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted) and any(t.any() for t in found.values())


@pytest.mark.parametrize(
    ("metadata", "factor"),
    [
        ({"lora_alpha": "12"}, 4),
        ({"network_alpha": "6.0"}, 2),
        ({"ss_network_alpha": "1.5"}, 0.5),
        ({"ss_network_alpha": "None"}, 1),
        ({"alpha": "9"}, 3),
        ({"adapter_config": json.dumps({"lora_alpha": 6, "r": RANK})}, 2),
        ({"lora_adapter_metadata": json.dumps({"lora_alpha": 6, "alpha_pattern": {"attn1.to_k": 12}})}, 4),
        (
            {
                "lora_adapter_metadata": json.dumps(
                    {"transformer.lora_alpha": 6, "transformer.alpha_pattern": {"to_q": 9}}
                )
            },
            2,
        ),
    ],
)
def test_alpha_is_found_wherever_it_stands(theirs, caplog, metadata, factor):
    pairs = make_lora([Q])
    found = changes(ours_from(theirs), in_diffusers_naming(pairs), metadata)["blocks.1.self_attention.qkv.weight"]
    up, down = pairs[Q]
    torch.testing.assert_close(found[32:64], factor * up @ down, atol=1e-5, rtol=1e-4)
    assert ("no alpha was found" in caplog.text) == (factor == 1)


@pytest.mark.parametrize("role", ["alpha", "lora_alpha", "network_alpha"])
def test_alpha_beside_the_pair_counts_most(theirs, role):
    pairs = make_lora([Q])
    tensors = in_diffusers_naming(pairs) | {f"transformer.{Q}.{role}": torch.tensor(2.0 * RANK)}
    found = changes(ours_from(theirs), tensors, {"lora_alpha": "77"})["blocks.1.self_attention.qkv.weight"]
    torch.testing.assert_close(found[32:64], 2 * pairs[Q][0] @ pairs[Q][1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "factor"), [({"r": RANK}, 4), ({}, 4), ({"r": 64}, 1), ({"r": RANK, "bias": "none"}, 4)]
)
def test_settings_beside_the_file_are_read_if_they_are_its_own(tmp_path, settings, factor):
    save_file(in_diffusers_naming(make_lora([Q]), prefix="base_model.model."), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 4 * RANK, **settings}))
    lora = LoraFile.open(tmp_path / "adapter_model.safetensors").of_denoiser(BASE)
    assert {patch.scale for patch in lora.patches} == {factor}
    assert any("no alpha" in note for note in lora.notes) == (factor == 1)


@pytest.mark.parametrize("content", ["{", "[]", '{"lora_alpha": "much"}', "null", "\udcff"])
def test_damaged_settings_beside_the_file_are_refused(tmp_path, content):
    save_file(in_diffusers_naming(make_lora([Q])), tmp_path / "a.safetensors")
    (tmp_path / "adapter_config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match="settings"):
        LoraFile.open(tmp_path / "a.safetensors").of_denoiser(BASE)


@pytest.mark.parametrize("stem", [Q, NORM, "patch_embed.proj", "proj_out"])
@pytest.mark.parametrize("key", ["lora_magnitude_vector", "lora_magnitude_vector.weight", "dora_scale"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_dora_is_its_definition(theirs, stem, key, strength):
    """W' = m (W + s B A) / |W + s B A| per row, computed on diffusers' weights."""
    pairs = make_lora([stem])
    up, down = (half.flatten(1) for half in pairs[stem])
    weight = theirs.state_dict()[f"{stem}.weight"]
    magnitude = torch.rand(len(up), generator=torch.Generator().manual_seed(5)) + 0.5
    whole = weight.flatten(1) + 2 * up @ down
    wanted = magnitude[:, None] * whole / whole.norm(dim=1, keepdim=True)
    merged = theirs.state_dict() | {f"{stem}.weight": (weight.flatten(1).lerp(wanted, strength)).view_as(weight)}
    model, shape = ours_from(theirs), {"dora_scale": (-1, 1)}.get(key, (-1,))
    name = f"transformer.{stem}"
    tensors = in_diffusers_naming(pairs, alpha=2.0 * RANK) | {f"{name}.{key}": magnitude.view(shape)}
    apply_lora(model, match(tensors), strength)
    torch.testing.assert_close(
        model.state_dict(), ours_from(ours_diffusers(theirs, merged)).state_dict(), atol=1e-5, rtol=1e-4
    )


def test_dora_by_columns_is_its_definition(theirs):
    pairs, (up, down) = make_lora([Q]), make_lora([Q])[Q]
    weight, magnitude = theirs.state_dict()[f"{Q}.weight"], torch.rand(1, 32) + 0.5
    whole = weight + up @ down
    wanted = magnitude * whole / whole.norm(dim=0, keepdim=True) - weight
    found = changes(ours_from(theirs), in_diffusers_naming(pairs) | {f"transformer.{Q}.dora_scale": magnitude})
    torch.testing.assert_close(found["blocks.1.self_attention.qkv.weight"][32:64], wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("stem", [Q, NORM])
@pytest.mark.parametrize(("key", "factor"), [("lora_B.bias", 2.0), ("lora_B.style.bias", 2.0), ("diff_b", 1.0)])
def test_biases_beside_a_pair_are_added(theirs, stem, key, factor):
    pairs, bias = make_lora([stem]), torch.randn(LAYERS[stem][0], generator=torch.Generator().manual_seed(6))
    tensors = in_diffusers_naming(pairs, alpha=2.0 * RANK) | {f"transformer.{stem}.{key}": bias}
    if "style" in key:
        tensors = {
            name.replace("lora_A.w", "lora_A.style.w").replace("lora_B.w", "lora_B.style.w"): t
            for name, t in tensors.items()
        }
    found = changes(ours_from(theirs), tensors, strength=0.5)
    merged = theirs.state_dict() | {f"{stem}.bias": theirs.state_dict()[f"{stem}.bias"] + 0.5 * factor * bias}
    wanted = ours_from(ours_diffusers(theirs, merged)).state_dict()
    plain = ours_from(theirs).state_dict()
    for name in (name for name in wanted if name.endswith("bias")):
        torch.testing.assert_close(found[name], wanted[name] - plain[name], atol=1e-5, rtol=1e-4)


def test_a_refusal_says_why():
    stem = "lora_unet_" + Q.replace(".", "_")
    for key, words in (("hada_w1_a", "LoHa"), ("lokr_w1", "LoKr"), ("diff", "Whole"), ("bias", "Whole")):
        with pytest.raises(InputError, match=words):
            match({f"{stem}.{key}": torch.zeros(4, 4)})


def test_a_long_list_of_unknown_keys_is_a_short_line(theirs, caplog):
    unknown = {f"transformer.other_{n}.{'y' * 60}.lora_A.weight": torch.zeros(3, 4) for n in range(300)}
    apply_lora(ours_from(theirs), match(in_diffusers_naming(make_lora([Q]), alpha=3.0) | unknown))
    (record,) = caplog.records
    assert "unused keys (300)" in record.getMessage() and "and 297 more" in record.getMessage()
    assert len(record.getMessage()) < 600
