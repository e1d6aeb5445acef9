"""`inspect` accounts for every tensor and calls only complete files usable."""

from __future__ import annotations

import errno
import json

import pytest
import torch
from safetensors.torch import save_file

from hallo3_core.errors import InputError
from hallo3_core.release.inspect import inspect
from hallo3_core.release.layout import TEXT_FOLDER, TRANSFORMER_FILE, VAE_FILE, WAV2VEC_FOLDER
from hallo3_core.toy import noise_release as tiny
from hallo3_core.toy.noise_vae import tiny_vae_tensors
from hallo3_core.weights import names
from hallo3_core.weights.kinds import TRANSFORMER_PARTS
from hallo3_core.weights.parts import TEXT, VAE, build, sort_official
from hallo3_core.weights.vae_names import in_diffusers_names


@pytest.fixture(scope="module")
def transformers():
    return tiny.file_tensors(0)


@pytest.fixture
def release(tmp_path):
    return tiny.write_tiny_release(tmp_path / "toy")


def saved(tmp_path, tensors):
    path = tmp_path / "x.safetensors"
    save_file(dict(tensors), path)
    return inspect(path)


def manifest(tmp_path, tensors):
    entries = {n: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")} for n, t in tensors.items()}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"about": "a toy", "tensors": entries}))
    return path


def test_a_list_of_tensors_is_accounted_for_to_the_last(tmp_path, transformers):
    whole = transformers | {f"first_stage_model.{name}": tensor for name, tensor in tiny_vae_tensors(0).items()}
    report = inspect(manifest(tmp_path, whole))
    (file,) = report.files
    assert report.usable and not file.unknown and not file.missing
    assert file.tensors == len(whole) and file.bytes == sum(tensor.nbytes for tensor in whole.values())
    unused = sum(tensor.numel() for name, tensor in whole.items() if name in file.unused)
    assert sum(part.parameters for part in file.parts.values()) + unused == sum(t.numel() for t in whole.values())
    for prefix in names.PREFIXES:
        assert f"{prefix}mixins.pos_embed.freqs_sin" in file.unused
        assert f"{prefix}transformer.position_embeddings.weight" in file.unused
    for name in file.unused:
        assert name in report.text()


def test_a_list_and_its_file_are_recognised_alike(tmp_path, transformers):
    file, listed = saved(tmp_path, transformers).files[0], inspect(manifest(tmp_path, transformers)).files[0]
    assert (file.parts, file.unused, file.kind) == (listed.parts, listed.unused, listed.kind)


def test_parameter_counts_are_the_modules_own(tmp_path, transformers):
    parts = sort_official(transformers)
    (file,) = saved(tmp_path, transformers).files
    for part in TRANSFORMER_PARTS:
        assert file.parts[part].parameters == sum(p.numel() for p in build(parts, part).parameters())


@pytest.mark.parametrize("make", ["transformers", "denoiser", "vae", "vae in diffusers names"])
def test_any_missing_tensor_is_named_and_makes_the_file_unusable(tmp_path, transformers, make):
    tensors = {
        "transformers": transformers,
        "denoiser": sort_official(transformers).tensors[names.DENOISER],
        "vae": tiny_vae_tensors(0),
        "vae in diffusers names": in_diffusers_names(tiny_vae_tensors(0)),
    }[make]
    whole = saved(tmp_path, {name: tensor.contiguous() for name, tensor in tensors.items()})
    assert whole.usable
    needed = [name for name in tensors if name not in whole.files[0].unused]
    for name in needed[:: max(1, len(needed) // 12)]:
        report = inspect(manifest(tmp_path, {n: t for n, t in tensors.items() if n != name}))
        assert not report.usable, name
        assert "missing" in report.text() or report.files[0].faults or not report.files[0].parts


def test_a_misshapen_tensor_is_a_fault_and_an_unknown_one_is_listed(tmp_path, transformers):
    name = "model.diffusion_model.transformer.layers.1.mlp.dense_h_to_4h.weight"
    report = saved(
        tmp_path,
        transformers | {name: transformers[name][:, :-1].contiguous(), "model.diffusion_model.more": torch.ones(1)},
    )
    assert not report.usable and "blocks.1.mlp.up.weight has shape" in report.text()
    assert report.files[0].unknown == ["model.diffusion_model.more"]


def test_sizes_that_fit_no_network_are_a_fault(tmp_path, transformers):
    for name in transformers:
        if "layers.1." not in name and "layers.2." not in name:
            for shape in ((0,), (), (7, 7, 7)):
                report = inspect(manifest(tmp_path, transformers | {name: torch.empty(shape)}))
                assert not report.usable or name in report.files[0].unused, (name, shape)


def test_values_that_are_not_finite_are_warned_of(tmp_path, transformers):
    name = "model.diffusion_model.time_embed.0.bias"
    for value in (float("nan"), float("inf")):
        spoilt = transformers[name].clone()
        spoilt[3] = value
        report = saved(tmp_path, transformers | {name: spoilt})
        assert report.usable and name in report.files[0].warnings[0] and "warning" in report.text()
        assert not inspect(tmp_path / "x.safetensors", values=False).files[0].warnings
    assert not saved(tmp_path, transformers).files[0].warnings


def test_float8_values_are_looked_at_too(tmp_path, transformers):
    own = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in transformers.items()}
    assert not saved(tmp_path, own).files[0].warnings
    bits = own["model.diffusion_model.time_embed.0.bias"].view(torch.uint8).clone()
    bits[0] = 0x7F
    report = saved(tmp_path, own | {"model.diffusion_model.time_embed.0.bias": bits.view(torch.float8_e4m3fn)})
    assert report.files[0].warnings


def test_the_toy_release_is_usable_and_its_parts_too(release):
    report = inspect(release)
    assert report.usable and report.is_release and not report.lacking
    for place in (release / TEXT_FOLDER, release / WAV2VEC_FOLDER, release / VAE_FILE):
        assert inspect(place).usable
    content = json.loads(report.as_json())
    assert content["usable"] and all(file["usable"] for file in content["files"])


def test_a_release_without_one_of_its_parts_says_so(release):
    (release / VAE_FILE).unlink()
    report = inspect(release)
    assert not report.usable and report.lacking == [VAE] and "missing for a video: the CogVideoX VAE" in report.text()


def test_a_missing_shard_makes_the_release_unusable(release):
    shard = sorted((release / TEXT_FOLDER).glob("*.safetensors"))[0]
    shard.unlink()
    report = inspect(release)
    assert not report.usable and TEXT in report.lacking and shard.name in report.text()


def test_a_damaged_transformer_file_makes_the_release_unusable(release):
    path = next(release.rglob(TRANSFORMER_FILE))
    path.write_bytes(path.read_bytes()[:-1000])
    assert not inspect(release).usable


def test_training_leftovers_of_the_vae_are_accepted(tmp_path):
    report = saved(tmp_path, tiny_vae_tensors(0) | {"loss.logvar": torch.zeros(1)})
    assert report.usable and "loss.logvar" in report.files[0].unused


@pytest.mark.parametrize(
    "content",
    [
        '{"tensors": {"a": 1}}',
        '{"tensors": {"a": {"shape": [1], "dtype": "float31"}}}',
        '{"tensors": {"a": {"shape": [-1], "dtype": "float32"}}}',
        '{"tensors": {"a": {"shape": [1000000000, 1000000000], "dtype": "float32"}}}',
    ],
)
def test_a_bad_list_is_refused(tmp_path, content):
    path = tmp_path / "manifest.json"
    path.write_text(content)
    with pytest.raises(InputError, match="manifest.json"):
        inspect(path)


def test_a_folder_without_models_and_no_path_are_refused(tmp_path):
    with pytest.raises(InputError, match="no model file"):
        inspect(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        inspect(tmp_path / "none")


def test_a_file_that_is_not_a_model_is_not_usable(tmp_path):
    (tmp_path / "note.json").write_text('{"a": 1}')
    (tmp_path / "empty.pt").write_bytes(b"")
    assert not inspect(tmp_path / "note.json").usable and not inspect(tmp_path / "empty.pt").usable


def test_a_disk_without_memory_mapping_is_inspected_as_any_other(tiny_release, monkeypatch):
    wanted = inspect(tiny_release).text()

    def no_device(*args, **kwargs):
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr("mmap.mmap", no_device)
    found = inspect(tiny_release)
    assert found.usable and found.text() == wanted
