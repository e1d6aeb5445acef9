"""Converted files that other programs rewrote are still identified; `inspect` and the loaders agree."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hallo3_core.release.convert import convert
from hallo3_core.release.detect import expect
from hallo3_core.release.inspect import inspect
from hallo3_core.release.layout import Release
from hallo3_core.weights import names
from hallo3_core.weights.parts import VAE, load, sort_tensors
from hallo3_core.weights.shards import read_model

pytestmark = pytest.mark.usefixtures("no_gradients")
NAME = "hallo3_denoiser.safetensors"


@pytest.fixture(scope="module")
def converted(tmp_path_factory, tiny_release):
    found = {}
    for dtype in ("bf16", "fp8"):
        found[dtype] = tmp_path_factory.mktemp(dtype)
        convert(tiny_release, found[dtype], dtype)
    return found


def old_scales(tensors: dict[str, Tensor], shape: tuple[int, ...] = (), layer: str = "") -> dict[str, Tensor]:
    found = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, tensor in tensors.items():
        if name.endswith(".weight_scale"):
            found[name.replace("weight_scale", "scale_weight")] = tensor.reshape(shape)
            found[name.replace("weight_scale", "scale_input")] = torch.ones(())
        elif not name.endswith(".comfy_quant"):
            found[name] = tensor
    return found


def by_row(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {name: tensor for name, tensor in tensors.items() if not name.endswith(".comfy_quant")}
    for name in (name for name in tensors if name.endswith(".weight_scale")):
        found[name] = tensors[name].expand(len(tensors[name.replace("_scale", "")]), 1).clone()
    return found


def saved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    marks = {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
    return {f"model.diffusion_model.{name}": tensor for name, tensor in tensors.items()} | marks


def with_vae(folder, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    vae = load_file(folder / "hallo3_vae.safetensors")
    return saved(tensors) | {f"first_stage_model.vae.autoencoder.{name}": tensor for name, tensor in vae.items()}


FORMS = {
    "scale_weight": ("fp8", old_scales),
    "scale_weight of one dimension": ("fp8", lambda t: old_scales(t, (1,))),
    "a scale for each row": ("fp8", by_row),
    "ModelSave": ("bf16", saved),
    "ModelSave in fp8": ("fp8", saved),
    "ModelSave, scale_weight": ("fp8", lambda t: saved(old_scales(t))),
}


def same(found, wanted) -> None:
    for (name, a), (_, b) in zip(sorted(found.named_parameters()), sorted(wanted.named_parameters()), strict=True):
        torch.testing.assert_close(a.float(), b.float(), atol=0, rtol=0, msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_the_same_denoiser(converted, tmp_path, form):
    dtype, change = FORMS[form]
    save_file(change(load_file(converted[dtype] / NAME)), tmp_path / "saved.safetensors")
    report = inspect(tmp_path / "saved.safetensors")
    assert report.usable and not report.files[0].unknown, report.text()
    assert names.DENOISER in expect(tmp_path / "saved.safetensors", names.DENOISER).parts
    parts = sort_tensors(read_model(tmp_path / "saved.safetensors"))
    wanted = sort_tensors(read_model(converted[dtype] / NAME))
    found, wanted = (load(p, names.DENOISER, dtype=torch.float32) for p in (parts, wanted))
    if form == "a scale for each row":  # dequantised
        latent = torch.randn(3, found.config.hidden)
        for name, layer in wanted.named_modules():
            if hasattr(layer, "full_weight"):
                assert torch.equal(found.get_submodule(name).weight, layer.full_weight(torch.float32)), latent
    else:
        same(found, wanted)


def test_checkpoint_save_holds_both(converted, tmp_path):
    folder = converted["bf16"]
    save_file(with_vae(folder, load_file(folder / NAME)), tmp_path / "saved.safetensors")
    assert inspect(tmp_path / "saved.safetensors").usable
    parts = sort_tensors(read_model(tmp_path / "saved.safetensors"))
    vae = load_file(folder / "hallo3_vae.safetensors")
    assert parts.tensors[VAE].keys() == vae.keys() and names.DENOISER in parts.tensors and not parts.unknown
    assert VAE in expect(tmp_path / "saved.safetensors", VAE).parts


@pytest.fixture
def sharded(converted, tmp_path):
    """A folder of converted files, with the denoiser in two shards and an index."""
    for path in converted["bf16"].iterdir():
        shutil.copy(path, tmp_path)
    tensors, weights = load_file(tmp_path / NAME), {}
    (tmp_path / NAME).unlink()
    keys = sorted(tensors)
    for number, own in enumerate((keys[::2], keys[1::2]), start=1):
        shard = f"hallo3_denoiser-0000{number}-of-00002.safetensors"
        save_file({key: tensors[key] for key in own}, tmp_path / shard)
        weights |= dict.fromkeys(own, shard)
    (tmp_path / f"{NAME}.index.json").write_text(json.dumps({"weight_map": weights}))
    return tmp_path


def test_shards_are_one_denoiser(converted, sharded):
    report = inspect(sharded / f"{NAME}.index.json")
    assert report.usable, report.text()
    wanted = sort_tensors(read_model(converted["bf16"] / NAME)).tensors[names.DENOISER]
    release = Release(sharded)
    for tensors in (
        release.transformers().tensors[names.DENOISER],
        *(
            sort_tensors(read_model(sharded / name)).tensors[names.DENOISER]
            for name in (f"{NAME}.index.json", "hallo3_denoiser-00002-of-00002.safetensors")
        ),
    ):
        assert tensors.keys() == wanted.keys()
        assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    assert expect(sharded / "hallo3_denoiser-00001-of-00002.safetensors", names.DENOISER)


def test_official_names_with_scales_are_multiplied_out(tiny_release):
    tensors = dict(read_model(Release(tiny_release).transformer_file))
    key = "model.diffusion_model.transformer.layers.0.mlp.dense_h_to_4h"
    plain = sort_tensors(tensors).tensors[names.DENOISER]["blocks.0.mlp.up.weight"].float()
    tensors[f"{key}.weight"] = (tensors[f"{key}.weight"].float() * 2).to(torch.float8_e4m3fn)
    tensors[f"{key}.scale_weight"] = torch.tensor(0.5)
    parts = sort_tensors(tensors)
    found = parts.tensors[names.DENOISER]["blocks.0.mlp.up.weight"]
    assert not parts.unknown and found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), plain, atol=2e-2, rtol=0.07)
