"""Detection: a file is identified by its tensors, not by its name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from hallo3_core.errors import InputError, own_command
from hallo3_core.release.detect import expect, find_files, identify_file
from hallo3_core.toy import noise_release as tiny
from hallo3_core.toy.noise_vae import tiny_vae_tensors
from hallo3_core.weights import names
from hallo3_core.weights.kinds import (
    FACE_DETECTOR,
    FACE_RECOGNISER,
    LABELS,
    LORA,
    TRANSFORMER_PARTS,
    VOCALS,
    WAV2VEC,
    Kind,
    identify,
    identify_onnx,
)
from hallo3_core.weights.onnx_outline import OnnxOutline, read_onnx_outline
from hallo3_core.weights.parts import TEXT, VAE, sort_official
from hallo3_core.weights.reading import Entry
from hallo3_core.weights.vae_names import in_diffusers_names

DENOISER_PREFIX, REFERENCE_PREFIX = names.PREFIXES
T5 = {
    "shared.weight": [32128, 4096],
    "encoder.block.0.layer.0.SelfAttention.q.weight": [4096, 4096],
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": [32, 64],
    "encoder.block.1.layer.0.SelfAttention.q.weight": [4096, 4096],
    "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": [10240, 4096],
}


def header(tensors):
    shapes = {name: getattr(value, "shape", value) for name, value in tensors.items()}
    return {name: Entry(tuple(shape), torch.bfloat16) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def transformers():
    return tiny.file_tensors(0)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return tiny.write_tiny_release(tmp_path_factory.mktemp("releases") / "toy")


def without(tensors, *words):
    return {name: tensor for name, tensor in tensors.items() if not any(word in name for word in words)}


def under(tensors, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def test_the_transformer_file_and_its_parts_are_recognised(transformers):
    assert set(identify(header(transformers)).parts) == set(TRANSFORMER_PARTS)
    inside = transformers | {f"first_stage_model.{name}": tensor for name, tensor in tiny_vae_tensors(0).items()}
    inside["conditioner.embedders.0.transformer.shared.weight"] = torch.zeros(2, 2)
    assert set(identify(header(inside)).parts) == {*TRANSFORMER_PARTS, VAE, TEXT}


def test_a_transformer_file_without_audio_serves_only_its_reference_network(transformers):
    found = identify(header(without(transformers, "audio_attn", "audio_proj")))
    assert found.parts == (names.REFERENCE_NET,) and "audio_attn missing" in found.detail


def test_a_bare_official_transformer_is_recognised_and_not_taken(transformers):
    found = identify(header(under(transformers, DENOISER_PREFIX)))
    assert found.kind is Kind.TRANSFORMERS and not found.is_usable and "without its prefix" in found.detail
    found = identify(header(under(transformers, REFERENCE_PREFIX)))
    assert found.kind is Kind.COGVIDEOX and "audio_attn missing" in found.detail and "reference" in found.detail


@pytest.mark.parametrize("part", TRANSFORMER_PARTS)
def test_each_converted_part_is_recognised(transformers, part):
    own = sort_official(transformers).tensors[part]
    prefix = f"{part}." if part.endswith("projector") else ""
    assert identify(header({prefix + name: tensor for name, tensor in own.items()})).parts == (part,)


def test_base_cogvideox_is_recognised_in_each_naming(transformers):
    patch = "mixins.patch_embed.proj.weight"
    base = under(without(transformers, "audio", "face"), DENOISER_PREFIX) | {patch: torch.zeros(3072, 32, 2, 2)}
    diffusers = {
        "transformer_blocks.0.attn1.to_q.weight": [3072, 3072],
        "transformer_blocks.0.norm1.linear.weight": [18432, 512],
        "patch_embed.proj.weight": [3072, 32, 2, 2],
    }
    ours = without(sort_official(transformers).tensors[names.DENOISER], "audio_attention")
    for tensors in (base, {DENOISER_PREFIX + n: t for n, t in base.items()}, diffusers):
        found = identify(header(tensors))
        assert found.kind is Kind.COGVIDEOX and not found.is_usable
        assert "CogVideoX-5B-I2V" in found.detail and "no audio attention" in found.detail
    assert identify(header(ours)).kind is Kind.COGVIDEOX


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_wan_is_recognised(prefix):
    found = identify(
        header({f"{prefix}blocks.0.self_attn.q.weight": [5, 5], f"{prefix}patch_embedding.weight": [5, 5]})
    )
    assert found.kind is Kind.FOREIGN and "Wan" in found.detail and not found.is_usable


def test_a_vae_is_recognised_in_both_namings():
    official = tiny_vae_tensors(0)
    for tensors in (official, in_diffusers_names(official)):
        assert identify(header(tensors)).parts == (VAE,)
        half = {name: tensor for name, tensor in tensors.items() if name.startswith("decoder.")}
        assert identify(header(half)).kind is Kind.VAE and not identify(header(half)).is_usable


def test_text_encoders_are_distinguished_from_their_relatives():
    assert identify(header(T5)).parts == (TEXT,) and "2 layers, width 4096" in identify(header(T5)).detail
    assert "fp8" in identify(header(T5 | {"scaled_fp8": [0]})).detail
    bias = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"
    assert "UMT5" in identify(header(T5 | {bias.format(1): [32, 64]})).detail
    assert "1.0" in identify(header(without(T5, "wi_0"))).detail


def test_wav2vec_is_recognised_with_and_without_prefix():
    bare = {
        "feature_extractor.conv_layers.0.conv.weight": [512, 1, 10],
        "feature_projection.projection.weight": [768, 512],
        "encoder.layers.0.attention.q_proj.weight": [768, 768],
    }
    for prefix in ("", "wav2vec2."):
        assert identify(header({prefix + name: shape for name, shape in bare.items()})).parts == (WAV2VEC,)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("transformer.transformer_blocks.3.attn1.to_q.lora_A.weight", (LORA,)),
        ("lora_unet_transformer_blocks_3_attn1_to_q.lora_down.weight", (LORA,)),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", ()),
    ],
)
def test_a_lora_is_distinguished_from_the_model_it_changes(name, parts):
    found = identify(header({name: [4, 64]}))
    assert found.kind is Kind.LORA and found.parts == parts


def test_onnx_files_are_recognised_by_inputs_and_outputs(release):
    models = release / "face_analysis" / "models"
    assert {part for file in models.glob("*.onnx") for part in identify_file(file).found.parts} == {
        FACE_DETECTOR,
        FACE_RECOGNISER,
    }
    spectrum = {"x": (None, 4, 3072, 256)}
    assert identify_onnx(OnnxOutline(spectrum, spectrum)).parts == (VOCALS,)
    assert not identify_onnx(OnnxOutline({"x": (1, 3, 96, 96)}, {"y": (1, 3)})).is_usable
    assert identify_onnx(OnnxOutline({"x": (1,)}, {})).kind is Kind.UNKNOWN


def test_the_onnx_outline_is_what_onnx_says(release):
    onnx = pytest.importorskip("onnx")
    for path in (release / "face_analysis" / "models").glob("*.onnx"):
        graph = onnx.load(str(path)).graph
        for values, found in (
            (graph.input, read_onnx_outline(path).inputs),
            (graph.output, read_onnx_outline(path).outputs),
        ):
            assert found == {v.name: tuple(d.dim_value or None for d in v.type.tensor_type.shape.dim) for v in values}
        path_cut = path.with_suffix(".cut")
        path_cut.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ValueError, match="cut short|damaged"):
            read_onnx_outline(path_cut)
        path_cut.unlink()


def test_a_name_says_nothing(tmp_path, transformers):
    """Every file of a folder is identified correctly despite misleading names."""
    save_file(transformers, tmp_path / "vae.bin")
    torch.save({"state_dict": tiny_vae_tensors(0)}, tmp_path / "denoiser.safetensors")
    (tmp_path / "weights.pt").write_text("these are not weights, this is a note about weights\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    assert {place.path.name: place.found.kind for place in find_files(tmp_path)} == {
        "vae.bin": Kind.TRANSFORMERS,
        "denoiser.safetensors": Kind.VAE,
    }


def test_a_release_holds_every_part(release):
    places = find_files(release)
    assert {part for place in places for part in place.found.parts} == {
        *TRANSFORMER_PARTS,
        *(VAE, TEXT, WAV2VEC, FACE_DETECTOR, FACE_RECOGNISER),
    }
    assert len(places) == 6, "shards count as one"


def test_folders_that_lead_round_in_circles_are_walked_once(tmp_path, transformers):
    (tmp_path / "a").mkdir()
    save_file(transformers, tmp_path / "a" / "x.safetensors")
    (tmp_path / "a" / "round").symlink_to(tmp_path, target_is_directory=True)
    assert len(find_files(tmp_path)) == 1


@pytest.fixture
def shards(tmp_path):
    tensors = {name: torch.zeros(2, 2) for name in T5}
    first = dict(list(tensors.items())[:2])
    save_file(first, tmp_path / "one.safetensors")
    save_file({name: tensors[name] for name in tensors.keys() - first.keys()}, tmp_path / "two.safetensors")
    weights = {name: f"{'one' if name in first else 'two'}.safetensors" for name in tensors}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weights}))
    return index, weights


def test_shards_are_one_model(shards):
    (place,) = find_files(shards[0].parent)
    assert place.found.parts == (TEXT,) and len(place.files) == 2 and place.header.keys() == T5.keys()


def test_a_missing_shard_is_named(shards):
    (shards[0].parent / "two.safetensors").unlink()
    found = identify_file(shards[0]).found
    assert found.kind is Kind.BROKEN and "two.safetensors: missing" in found.detail


def test_shards_outside_the_folder_or_without_their_tensors_are_refused(shards):
    index, weights = shards
    index.write_text(json.dumps({"weight_map": weights | {"shared.weight": "../../one.safetensors"}}))
    assert "outside" in identify_file(index).found.detail
    index.write_text(json.dumps({"weight_map": weights | {"another": "one.safetensors"}}))
    assert "another" in identify_file(index).found.detail


def test_the_wrong_file_is_answered_with_what_it_is(tmp_path, transformers):
    path = tmp_path / "hallo3.safetensors"
    save_file(in_diffusers_names(tiny_vae_tensors(0)), path)
    with pytest.raises(
        InputError, match="hallo3.safetensors is a CogVideoX VAE in diffusers naming, not the Hallo3 den"
    ):
        expect(path, names.DENOISER)
    assert expect(path, VAE).parts == (VAE,)
    save_file(under(without(transformers, "audio", "face"), DENOISER_PREFIX), path)
    with pytest.raises(InputError) as error:
        expect(path, names.DENOISER)
    assert "no audio attention (transformer.layers.0.audio_attn missing)" in str(error.value)
    assert "Choose the Hallo3 denoiser. To get it, run: " + own_command("download", "FOLDER") in str(error.value)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="cut short"):
        expect(path, names.DENOISER)


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        ("model.diffusion_model.blocks.0.self_attn.q.weight", "a Wan video transformer"),
        ("patch_embedding.weight", "a Wan video transformer"),
        ("patchify_proj.weight", "an LTX video transformer"),
        ("double_blocks.0.img_attn_qkv.weight", "a HunyuanVideo transformer"),
        ("text_model.encoder.layers.0.self_attn.q_proj.weight", "a CLIP text encoder"),
    ],
)
@pytest.mark.parametrize("part", [names.DENOISER, names.REFERENCE_NET, VAE])
def test_another_model_is_told_by_name_and_no_command_is_given(tmp_path, tensor, what, part):
    save_file({tensor: torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError) as error:
        expect(tmp_path / "x.safetensors", part)
    assert str(error.value) == f"x.safetensors is {what}, which this pack does not use, not {LABELS[part]}. " + (
        f"Choose {LABELS[part]}."
    )
    assert not identify_file(tmp_path / "x.safetensors").found.advice


@pytest.mark.parametrize("content", [b"", b"GGUF" + bytes(99), b"\x80\x02}.", b"some words", bytes(100)])
def test_what_cannot_be_used_is_never_taken(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    for part in LABELS:
        with pytest.raises(InputError) as error:
            expect(path, part)
        assert "\n" not in str(error.value) and "x.safetensors" in str(error.value)
