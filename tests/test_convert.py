"""Conversion: converted files hold the release's values in every format, and no partial file is ever left."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hallo3_core.errors import InputError
from hallo3_core.inputs.portrait import Portrait
from hallo3_core.model.scaled import ScaledLinear
from hallo3_core.pipeline.clip import concat_latent, sample_clip
from hallo3_core.pipeline.conditions import ClipCalls, prepare_run
from hallo3_core.pipeline.options import Settings
from hallo3_core.release import convert as conversion
from hallo3_core.release.convert import FILES, convert
from hallo3_core.release.layout import TRANSFORMER_FILE, TRANSFORMER_FOLDER, VAE_FILE, Release
from hallo3_core.sampling.noise import SeededNoise
from hallo3_core.toy.noise_release import file_tensors
from hallo3_core.toy.noise_vae import tiny_vae_tensors
from hallo3_core.vae.latents import encode
from hallo3_core.weights import fp8, names
from hallo3_core.weights.kinds import TRANSFORMER_PARTS
from hallo3_core.weights.parts import VAE, Parts, load, sort_official, sort_tensors
from hallo3_core.weights.reading import read_metadata, read_tensors
from hallo3_core.weights.vae_names import in_diffusers_names
from hallo3_core.weights.writing import NewTensor, verify, write_streamed

DTYPES = ("bf16", "fp16", "fp8", "int8")
# Error of a clip's latent against the bfloat16 release's, as a share of its spread, after two steps of guidance 3.5.
# Measured on the toy release: fp16 below 0.00001, fp8 0.057, int8 0.015 (docs/files.md).
ALLOWED = {"bf16": 0.0, "fp16": 1e-4, "fp8": 0.08, "int8": 0.03}


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    write_release(folder, file_tensors(0))
    return folder


@pytest.fixture(scope="module")
def converted(release, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("converted")
    for dtype in DTYPES:
        convert(release, folder / dtype, dtype)
    return {dtype: folder / dtype for dtype in DTYPES}


def write_release(folder: Path, tensors: dict[str, Tensor]) -> None:
    transformer_file, vae = folder / TRANSFORMER_FOLDER / "1" / TRANSFORMER_FILE, folder / VAE_FILE
    transformer_file.parent.mkdir(parents=True)
    vae.parent.mkdir(parents=True)
    (folder / TRANSFORMER_FOLDER / "latest").write_text("1")
    torch.save({"module": tensors}, transformer_file)
    torch.save({"state_dict": tiny_vae_tensors(1)}, vae)


def merged(folder: Path) -> Parts:
    parts = Parts()
    for path in folder.glob("*.safetensors"):
        parts.add(sort_tensors(read_tensors(path)))
    return parts


@torch.inference_mode()
def clip_latent(folder: Path) -> Tensor:
    """Latent of a clip after two steps, from random inputs that are the same for every release."""
    release, draw = Release(folder), torch.Generator().manual_seed(0)
    network = {part: release.network(part, dtype=torch.float32) for part in TRANSFORMER_PARTS}
    vae = release.vae(dtype=torch.float32)
    pixels = torch.rand(1, 3, 96, 144, generator=draw) * 2 - 1
    bank = network[names.REFERENCE_NET](encode(vae, pixels[:, :, None])[:, :, 0])
    windows = torch.randn(1, 49, 5, 3, 24, generator=draw)
    denoiser, project = network[names.DENOISER], network[names.AUDIO_PROJECTOR]
    run = prepare_run(
        denoiser,
        Portrait(pixels, framing=None, bank=bank),
        Settings(steps=2),
        text=torch.randn(1, 226, 40, generator=draw),
        face_tokens=network[names.FACE_PROJECTOR](torch.randn(1, 512, generator=draw)),
        null_audio_tokens=project(torch.zeros_like(windows)),
    )
    noise = SeededNoise(0, 0)
    concat = concat_latent(vae, pixels, None, noise)
    return sample_clip(ClipCalls(denoiser, run, concat, project(windows)), run.settings, concat, noise)


# Round trips


def test_bf16_is_the_release_bit_for_bit(release, converted):
    official = sort_official(read_tensors(Release(release).transformer_file)).tensors
    official[VAE] = in_diffusers_names(read_tensors(release / VAE_FILE))
    found = merged(converted["bf16"]).tensors
    assert found.keys() == official.keys()
    for part, tensors in official.items():
        assert found[part].keys() == tensors.keys()
        assert all(torch.equal(found[part][name], tensor) for name, tensor in tensors.items())


def test_a_film_is_the_same_within_the_rounding_of_its_format(release, converted, capsys):
    expected = clip_latent(release)
    rows = []
    for dtype, folder in converted.items():
        found = clip_latent(folder)
        error = (found - expected).pow(2).mean().sqrt() / expected.std()
        size = sum(path.stat().st_size for path in folder.iterdir())
        rows.append((dtype, size, error.item(), (found - expected).abs().max().item()))
    with capsys.disabled():
        sys.stdout.write("\n weights      bytes  error / spread  largest error\n")
        for dtype, size, error, largest in rows:
            sys.stdout.write(f" {dtype:7} {size:10d}  {error:14.5f}  {largest:13.5f}\n")
    for dtype, _, error, _ in rows:
        assert error <= ALLOWED[dtype], f"{dtype}: off by {error:.4f} of the latent's spread"


def test_fp8_holds_the_blocks_matrices_and_nothing_else(converted):
    for part, tensors in merged(converted["fp8"]).tensors.items():
        rounded = {name for name, tensor in tensors.items() if tensor.dtype == torch.float8_e4m3fn}
        matrices = {
            name
            for name, tensor in tensors.items()
            if name.startswith("blocks.") and name.endswith(".weight") and tensor.ndim == 2
        }
        assert rounded == (matrices if part in (names.DENOISER, names.REFERENCE_NET) else set())


def test_fp8_weights_are_the_nearest_that_their_scale_allows(release, converted):
    """With three mantissa bits the error is at most 1/16 of the value, or half the smallest step near zero."""
    exact = sort_official(read_tensors(Release(release).transformer_file)).tensors[names.DENOISER]
    model = load(merged(converted["fp8"]), names.DENOISER, dtype=torch.bfloat16)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, ScaledLinear)}
    assert len(layers) == 10 * model.config.layers
    for name, layer in layers.items():
        weight, found = exact[f"{name}.weight"].float(), layer.full_weight(torch.float32)
        step = layer.weight_scale * 2.0**-10
        assert ((found - weight).abs() <= weight.abs() / 16 + step).all()
        assert torch.equal(layer.full_weight(torch.bfloat16).float(), found)  # the scale is a power of two
        assert found.abs().max() <= weight.abs().max() * (1 + 1 / 16)


def test_a_scaled_layer_is_the_linear_layer_of_its_full_weight(converted):
    model = load(merged(converted["fp8"]), names.DENOISER, dtype=torch.float32)
    layer, x = model.blocks[0].mlp.up, torch.randn(3, 64)
    assert torch.equal(layer(x), x @ layer.full_weight(torch.float32).T + layer.bias)
    assert layer.weight.dtype == torch.float8_e4m3fn and layer.bias.dtype == torch.float32


@pytest.mark.parametrize("magnitude", [1e-30, 1e-6, 1.0, 3e4, 1e30])
def test_rounding_to_fp8_keeps_any_magnitude(magnitude):
    weight = torch.randn(16, 16, generator=torch.Generator().manual_seed(0)) * magnitude
    rounded, scale = fp8.quantise(weight)
    error = rounded.float() * scale - weight
    assert error.double().norm() / weight.double().norm() < 0.05
    assert torch.equal(fp8.quantise(torch.zeros(2, 2))[0].float(), torch.zeros(2, 2))


def test_files_say_what_they_are(release, converted):
    for dtype, folder in converted.items():
        for name, held in FILES.items():
            metadata = read_metadata(folder / name)
            assert metadata["format"] == "pt" and metadata["dtype"] == dtype
            assert metadata["parts"] == ",".join(held)
            assert "licence" in metadata["licence"] and not Path(metadata["source"]).is_absolute()
    config = json.loads(read_metadata(converted["bf16"] / "hallo3_denoiser.safetensors")["config"])
    assert config[names.DENOISER]["layers"] == 3 and config[names.DENOISER]["grid"]["columns"] == 9


def test_comfyui_s_names(converted):
    vae = read_tensors(converted["fp8"] / "hallo3_vae.safetensors")
    assert "decoder.conv_in.conv.weight" in vae and "decoder.mid_block.resnets.0.norm1.norm_layer.weight" in vae
    denoiser = read_tensors(converted["fp8"] / "hallo3_denoiser.safetensors")
    for name in denoiser:
        if name.endswith(".weight_scale"):
            layer = name.removesuffix(".weight_scale")
            assert denoiser[name].shape == () and denoiser[name].dtype == torch.float32
            assert json.loads(bytes(denoiser[f"{layer}.comfy_quant"].tolist()))["format"] == "float8_e4m3fn"
    assert sum(name.endswith(".comfy_quant") for name in denoiser) == 30


def test_slices_and_mappings_leave_no_trace(release, converted, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "SLICE_BYTES", 1000)
    monkeypatch.setattr(conversion, "MAPPING_BYTES", 30_000)
    for path in convert(release, tmp_path, "fp8"):
        assert path.read_bytes() == (converted["fp8"] / path.name).read_bytes()


def test_a_converted_file_converts_again(converted, tmp_path):
    """release -> bf16 -> fp8 equals release -> fp8. fp8 -> bf16 is rejected."""
    convert(converted["bf16"] / "hallo3_denoiser.safetensors", tmp_path, "fp8")
    found = read_tensors(tmp_path / "hallo3_denoiser.safetensors")
    expected = read_tensors(converted["fp8"] / "hallo3_denoiser.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name].float(), expected[name].float()) for name in expected)
    with pytest.raises(InputError, match="in fp8 already"):
        convert(converted["fp8"] / "hallo3_denoiser.safetensors", tmp_path / "again", "bf16")


# Partial and overwritten files


def test_an_interruption_leaves_no_file_and_the_next_run_completes(release, converted, tmp_path):
    seen = []

    def interrupt(done: int, total: int, name: str) -> None:
        seen.append(name)
        if seen.count("hallo3_reference_net.safetensors") == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(release, tmp_path, "bf16", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["hallo3_denoiser.safetensors"]
    kept = (tmp_path / "hallo3_denoiser.safetensors").stat().st_mtime_ns
    calls = []
    convert(release, tmp_path, "bf16", progress=lambda *news: calls.append(news))
    assert (tmp_path / "hallo3_denoiser.safetensors").stat().st_mtime_ns == kept
    assert calls[-1][0] == calls[-1][1] and "hallo3_denoiser.safetensors" not in {name for *_, name in calls}
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (converted["bf16"] / name).read_bytes()


def test_another_source_or_dtype_is_not_mistaken_for_the_same(release, tmp_path):
    convert(release, tmp_path / "out", "bf16")
    before = read_tensors(tmp_path / "out" / "hallo3_denoiser.safetensors")["head.weight"].clone()
    write_release(tmp_path / "other", file_tensors(7))
    convert(tmp_path / "other", tmp_path / "out", "bf16")
    assert not torch.equal(read_tensors(tmp_path / "out" / "hallo3_denoiser.safetensors")["head.weight"], before)
    convert(tmp_path / "other", tmp_path / "out", "fp16")
    assert read_tensors(tmp_path / "out" / "hallo3_denoiser.safetensors")["head.weight"].dtype == torch.float16


def test_a_full_disk_is_reported_with_numbers_before_anything_is_written(release, tmp_path):
    with pytest.raises(InputError, match=r"MB to write, 100 B free"):
        convert(release, tmp_path / "new", "bf16", free=lambda folder: 100)
    assert not (tmp_path / "new").exists()


def test_a_foreign_file_is_not_overwritten(release, converted, tmp_path):
    foreign = tmp_path / "hallo3_vae.safetensors"
    write_streamed(foreign, [NewTensor("x", torch.uint8, (4,))], [torch.zeros(4, dtype=torch.uint8)], {})
    before = foreign.read_bytes()
    with pytest.raises(InputError, match="was not written by convert"):
        convert(release, tmp_path, "bf16")
    assert foreign.read_bytes() == before and list(tmp_path.iterdir()) == [foreign]
    own = converted["bf16"] / "hallo3_denoiser.safetensors"
    with pytest.raises(InputError, match="its own input"):
        convert(own, own.parent, "fp8")


def test_no_source_is_overwritten_under_another_name(release, tmp_path):
    """Every target is compared with every source: here the projectors' target is a hard link to the VAE."""
    vae = release / VAE_FILE
    os.link(vae, tmp_path / "hallo3_projectors.safetensors")
    with pytest.raises(InputError, match="its own input"):
        convert(release, tmp_path, "bf16")
    assert [path.name for path in tmp_path.iterdir()] == ["hallo3_projectors.safetensors"]


@pytest.mark.parametrize("position", [0.3, 0.6, 0.999])
def test_one_flipped_bit_is_found(converted, tmp_path, position):
    whole = bytearray((converted["fp8"] / "hallo3_projectors.safetensors").read_bytes())
    header = 8 + int.from_bytes(whole[:8], "little")
    path = tmp_path / "file.safetensors"
    path.write_bytes(whole)
    verify(path)
    whole[header + int(position * (len(whole) - header))] ^= 1
    path.write_bytes(whole)
    with pytest.raises(InputError, match="checksum"):
        verify(path)


def test_what_does_not_read_back_gets_no_name(release, tmp_path, monkeypatch):
    """A bit flips on disk between writing and verification."""
    monkeypatch.setattr("hallo3_core.weights.writing._settle", flip_last_byte)
    with pytest.raises(InputError, match="checksum"):
        convert(release, tmp_path, "bf16")
    assert list(tmp_path.iterdir()) == []


def flip_last_byte(file) -> None:
    file.seek(-1, 2)
    file.write(b"\xa5")
    file.flush()


# Rejected inputs


def test_an_incomplete_release_is_refused_by_name(tmp_path):
    tensors = file_tensors(0)
    del tensors["model.diffusion_model.transformer.layers.1.mlp.dense_h_to_4h.bias"]
    write_release(tmp_path / "release", tensors)
    with pytest.raises(InputError, match=r"1 missing \(blocks\.1\.mlp\.up\.bias\)"):
        convert(tmp_path / "release", tmp_path / "out", "bf16")


def test_what_fp16_cannot_hold_is_refused_and_nan_is_warned_of(tmp_path, caplog):
    tensors = file_tensors(0)
    weight = tensors["model.diffusion_model.transformer.layers.1.mlp.dense_h_to_4h.weight"]
    weight[3, 4] = 2.0**20
    write_release(tmp_path / "large", tensors)
    with pytest.raises(InputError, match=r"blocks\.1\.mlp\.up\.weight holds 1\.05e\+06"):
        convert(tmp_path / "large", tmp_path / "out", "fp16")
    convert(tmp_path / "large", tmp_path / "out", "bf16")
    weight[3, 4] = float("nan")
    write_release(tmp_path / "broken", tensors)
    with pytest.raises(InputError, match=r"blocks\.1\.mlp\.up\.weight holds NaN"):
        convert(tmp_path / "broken", tmp_path / "out8", "fp8")
    caplog.clear()
    convert(tmp_path / "broken", tmp_path / "out16", "bf16")
    assert "blocks.1.mlp.up.weight holds NaN" in caplog.text


def test_an_unknown_dtype_is_refused(release, tmp_path):
    with pytest.raises(InputError, match="bf16, fp16, fp32, fp8, int8"):
        convert(release, tmp_path, "int4")


def test_two_files_of_one_part_are_refused(converted, tmp_path):
    for name in ("hallo3_denoiser.safetensors", "hallo3_denoiser_old.safetensors"):
        (tmp_path / name).write_bytes((converted["bf16"] / "hallo3_denoiser.safetensors").read_bytes())
    with pytest.raises(InputError, match="two files hold the denoiser"):
        Release(tmp_path).transformers()
