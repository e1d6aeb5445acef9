"""Folders as transformers saves them: T5's and wav2vec2's are taken and refused alike, in every form of the weights."""

from __future__ import annotations

import codecs
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hallo3_core.errors import InputError
from hallo3_core.inputs.audio import load_wav2vec
from hallo3_core.inputs.text import load_text_encoder
from hallo3_core.release.detect import find_files
from hallo3_core.toy.noise_text import write_tiny_text_encoder
from hallo3_core.toy.noise_wav2vec import write_tiny_wav2vec
from hallo3_core.weights.model_folder import find_weights

LOADERS = {"t5": load_text_encoder, "wav2vec2": load_wav2vec}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each kind's folder, and its tensors, without a file of weights."""
    found = {}
    for kind, write in (("t5", write_tiny_text_encoder), ("wav2vec2", write_tiny_wav2vec)):
        folder = tmp_path_factory.mktemp(kind) / kind
        write(folder, seed=1)
        tensors = {}
        for path in folder.glob("*.safetensors"):
            tensors |= load_file(path)
            path.unlink()
        (folder / "model.safetensors.index.json").unlink(missing_ok=True)
        found[kind] = folder, tensors
    return found


def single(save, name):
    def write(folder: Path, tensors: dict) -> None:
        save(tensors, folder / name)

    return write


def shards(save, pattern, index, start=b""):
    def write(folder: Path, tensors: dict) -> None:
        keys, where = sorted(tensors), {}
        for number, own in enumerate((keys[::2], keys[1::2]), 1):
            name = pattern.format(f"-0000{number}-of-00002")
            save({key: tensors[key] for key in own}, folder / name)
            where |= dict.fromkeys(own, name)
        (folder / index).write_bytes(start + json.dumps({"weight_map": where}).encode())

    return write


FORMS = {
    "safetensors": single(save_file, "model.safetensors"),
    "torch": single(torch.save, "pytorch_model.bin"),
    "variant": single(save_file, "model.fp16.safetensors"),
    "variant of torch": single(torch.save, "pytorch_model.fp16.bin"),
    "shards": shards(save_file, "model{}.safetensors", "model.safetensors.index.json"),
    "shards, index with a byte order mark": shards(
        save_file, "model{}.safetensors", "model.safetensors.index.json", codecs.BOM_UTF8
    ),
    "shards of torch": shards(torch.save, "pytorch_model{}.bin", "pytorch_model.bin.index.json"),
    "shards of a variant": shards(save_file, "model.fp16{}.safetensors", "model.safetensors.index.fp16.json"),
}


def same(a, b) -> bool:
    a, b = a.model.state_dict(), b.model.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_the_same_network(folders, tmp_path, kind, form):
    folder, tensors = folders[kind]
    for name in (form, "safetensors"):
        FORMS[name](shutil.copytree(folder, tmp_path / name, dirs_exist_ok=True), tensors)
    assert same(*(LOADERS[kind](tmp_path / name) for name in (form, "safetensors")))
    (place,) = find_files(tmp_path / form)
    assert place.found.is_usable


@pytest.mark.parametrize("kind", LOADERS)
def test_configuration_with_a_byte_order_mark_is_read(folders, tmp_path, kind):
    folder, tensors = folders[kind]
    copy = shutil.copytree(folder, tmp_path / kind)
    FORMS["safetensors"](copy, tensors)
    for path in copy.glob("*.json"):
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    LOADERS[kind](copy)


@pytest.mark.parametrize("kind", LOADERS)
def test_no_weights_and_lost_indices_are_told(folders, tmp_path, kind):
    folder, tensors = folders[kind]
    copy = shutil.copytree(folder, tmp_path / kind)
    with pytest.raises(InputError, match="has no weights, expected model.safetensors, pytorch_model.bin or the index"):
        LOADERS[kind](copy)
    FORMS["shards"](copy, tensors)
    (copy / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match="model-00001-of-00002.safetensors is there without its index"):
        LOADERS[kind](copy)


def test_the_plain_name_wins_then_safetensors_then_shards(tmp_path):
    order = ["model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin"]
    order += ["model.safetensors.index.fp16.json", "model.bf16.safetensors", "model.fp16.safetensors"]
    order += ["pytorch_model.fp16.bin"]
    for name in [*order, "config.json", "model-00001-of-00002.safetensors", "optimizer.bin"]:
        (tmp_path / name).touch()
    found = []
    while (path := find_weights(tmp_path)) is not None:
        found.append(path.name)
        path.unlink()
    assert found == order


def test_an_embedding_under_its_other_name_is_the_embedding(folders, tmp_path):
    folder, tensors = folders["t5"]
    both = {name: shutil.copytree(folder, tmp_path / name) for name in "ab"}
    alias = {("encoder.embed_tokens.weight" if n == "shared.weight" else n): t for n, t in tensors.items()}
    FORMS["safetensors"](both["a"], tensors)
    FORMS["torch"](both["b"], alias)
    assert same(*(load_text_encoder(folder) for folder in both.values()))
