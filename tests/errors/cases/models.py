"""Checkpoints that are not what they should be: copies of the toy release with one file changed."""

from __future__ import annotations

import codecs
import datetime
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hallo3_core.release.convert import convert
from hallo3_core.release.layout import TEXT_FOLDER, TRANSFORMER_FILE, VAE_FILE, WAV2VEC_FOLDER
from hallo3_core.toy.noise_text import write_tiny_text_encoder
from hallo3_core.toy.noise_vae import tiny_vae_tensors
from hallo3_core.toy.noise_wav2vec import write_tiny_wav2vec

from . import Case, Place, case

TRANSFORMERS = f"hallo3/1/{TRANSFORMER_FILE}"
SHARD, INDEX = "model-00001-of-00002.safetensors", "model.safetensors.index.json"


def changed(place: Place, *removed: str) -> Path:
    """The toy release, to be changed: files are links until they are replaced."""
    release = place.folder / "models"
    shutil.copytree(place.release, release, copy_function=os.link)
    for name in removed:
        (shutil.rmtree if (release / name).is_dir() else os.unlink)(release / name)
    return release


def replaced(place: Place, name: str, content: bytes) -> Case:
    release = changed(place, name)
    (release / name).write_bytes(content)
    return Case({"--models": release})


def respelt(place: Place, name: str, change: Callable[[dict], None]) -> Case:
    """A torch or safetensors file with its tensors changed."""
    whole, path = place.release / name, changed(place, name) / name
    if path.suffix == ".safetensors":
        tensors = load_file(whole)
        change(tensors)
        save_file(tensors, path)
    else:
        content = torch.load(whole, weights_only=True)
        change(content.get("module") or content.get("state_dict") or content)
        torch.save(content, path)
    return Case({"--models": place.folder / "models"})


def first(tensors: dict, part: str) -> str:
    return next(name for name in tensors if part in name)


def spoil(tensors: dict, part: str) -> None:
    name = first(tensors, part)
    tensors[name] = torch.full_like(tensors[name], torch.nan)


def kept_with(place: Place, **state) -> Case:
    """The denoiser's file with something beside its tensors."""
    whole, release = place.release / TRANSFORMERS, changed(place, TRANSFORMERS)
    torch.save(torch.load(whole, weights_only=True) | state, release / TRANSFORMERS)
    return Case({"--models": release})


class Hostile:
    """Unpickled, it would run a program."""

    def __reduce__(self):
        return os.system, ("true",)


def lora(place: Place, **tensors: torch.Tensor) -> Case:
    save_file(tensors, place.folder / "style.safetensors")
    return Case({"--lora": place.folder / "style.safetensors"})


@case("models: not there")
def missing(place):
    return Case({"--models": place.folder / "none"})


@case("models: empty folder")
def empty_folder(place):
    return Case({"--models": place.folder})


@case("models: denoiser cut short")
def cut(place):
    return replaced(place, TRANSFORMERS, (place.release / TRANSFORMERS).read_bytes()[:1_000_000])


@case("models: denoiser file empty")
def empty(place):
    return replaced(place, TRANSFORMERS, b"")


@case("models: web page instead of the denoiser")
def page(place):
    return replaced(place, TRANSFORMERS, b"<!DOCTYPE html><html><head><title>Sign in</title></head>" * 9)


@case("models: pickle that runs code")
def hostile(place):
    release = changed(place, TRANSFORMERS)
    torch.save({"module": {"a": torch.zeros(2)}, "state": Hostile()}, release / TRANSFORMERS)
    return Case({"--models": release})


@case("models: pickle with state of other programs")
def foreign_state(place):
    return kept_with(place, step=datetime.timedelta(seconds=1), part=slice(1, 2))


@case("models: no rotary table")
def no_rotary(place):
    def change(tensors):
        for name in [name for name in tensors if "pos_embed.freqs" in name]:
            tensors.pop(name)

    return respelt(place, TRANSFORMERS, change)


@case("models: numbers of any length in the list of tensors")
def bomb(place):
    release = changed(place, TRANSFORMERS)
    huge = (2 << 80_000).to_bytes(10_001, "little")
    sizes = b"(\x8b" + len(huge).to_bytes(4, "little") + huge + b"q\x01" + b"h\x01" * 3000 + b"t"
    pickled = b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n"
    pickled += b"FloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQK\x00" + sizes + b"K\x01\x85\x89}tRs."
    with zipfile.ZipFile(release / TRANSFORMERS, "w") as file:
        file.writestr("a/data.pkl", pickled)
        file.writestr("a/data/0", bytes(8))
    return Case({"--models": release})


@case("models: compressed archive")
def compressed(place):
    release = changed(place, TRANSFORMERS)
    with zipfile.ZipFile(release / TRANSFORMERS, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10_000_000))
    return Case({"--models": release})


@case("models: old torch file")
def old(place):
    release = changed(place, TRANSFORMERS)
    torch.save({"a": torch.zeros(2)}, release / TRANSFORMERS, _use_new_zipfile_serialization=False)
    return Case({"--models": release})


@case("models: VAE instead of the denoiser")
def vae_as_transformers(place):
    release = changed(place, TRANSFORMERS)
    torch.save({"state_dict": tiny_vae_tensors(0)}, release / TRANSFORMERS)
    return Case({"--models": release})


@case("models: LoRA instead of the denoiser")
def lora_as_transformers(place):
    release = changed(place, TRANSFORMERS)
    torch.save(
        {"transformer.transformer_blocks.0.attn1.to_v.lora_A.weight": torch.zeros(4, 64)}, release / TRANSFORMERS
    )
    return Case({"--models": release})


@case("models: denoiser lacks a tensor")
def lacking(place):
    return respelt(place, TRANSFORMERS, lambda t: t.pop(first(t, "model.diffusion_model.transformer.layers.0.mlp")))


@case("models: denoiser's tensor of another shape")
def misshapen(place):
    def change(tensors):
        name = first(tensors, "model.diffusion_model.transformer.layers.1.attention.dense.weight")
        tensors[name] = tensors[name][:-1].clone()

    return respelt(place, TRANSFORMERS, change)


@case("models: NaN in the denoiser")
def nan_denoiser(place):
    return respelt(place, TRANSFORMERS, lambda t: spoil(t, "model.diffusion_model.transformer.layers.0.mlp"))


@case("models: folder named by latest is elsewhere")
def latest(place):
    return replaced(place, "hallo3/latest", b"../../elsewhere")


@case("models: latest not there")
def no_latest(place):
    return Case({"--models": changed(place, "hallo3/latest")})


@case("models: another model instead of the VAE")
def wrong_vae(place):
    return replaced(place, VAE_FILE, (place.release / TEXT_FOLDER / SHARD).read_bytes())


@case("models: VAE lacks a tensor")
def lacking_vae(place):
    return respelt(place, VAE_FILE, lambda t: t.pop(first(t, "decoder.conv_in.conv.weight")))


@case("models: NaN in the VAE")
def nan_vae(place):
    return respelt(place, VAE_FILE, lambda t: spoil(t, "decoder.conv_out.conv.weight"))


@case("models: T5 of another size")
def wrong_text(place):
    release = changed(place, TEXT_FOLDER)
    write_tiny_text_encoder(release / TEXT_FOLDER, dim=48, heads=4)
    return Case({"--models": release})


@case("models: T5 shard missing")
def shard(place):
    return Case({"--models": changed(place, f"{TEXT_FOLDER}/{SHARD}")})


@case("models: T5 shard cut short")
def cut_shard(place):
    return replaced(place, f"{TEXT_FOLDER}/{SHARD}", (place.release / TEXT_FOLDER / SHARD).read_bytes()[:9000])


@case("models: T5 index leads elsewhere")
def index(place):
    return replaced(place, f"{TEXT_FOLDER}/{INDEX}", b'{"weight_map": {"shared.weight": "../../secret.safetensors"}}')


@case("models: T5 index is a list")
def list_index(place):
    return replaced(place, f"{TEXT_FOLDER}/{INDEX}", b"[]")


def one_file(place: Place, write: Callable[[dict, Path], None]) -> Case:
    """T5's folder with all its tensors in one file, or in none."""
    release = changed(place, f"{TEXT_FOLDER}/{INDEX}")
    folder, tensors = release / TEXT_FOLDER, {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
        path.unlink()
    write(tensors, folder)
    return Case({"--models": release})


@case("models: T5 as pytorch_model.bin alone")
def text_of_torch(place):
    return one_file(place, lambda tensors, folder: torch.save(tensors, folder / "pytorch_model.bin"))


@case("models: T5 as model.fp16.safetensors")
def text_variant(place):
    return one_file(place, lambda tensors, folder: save_file(tensors, folder / "model.fp16.safetensors"))


@case("models: T5 without weights")
def no_text(place):
    return one_file(place, lambda tensors, folder: None)


@case("models: T5 in fp8 with scale_weight")
def text_in_fp8(place):
    def write(tensors: dict, folder: Path) -> None:
        for name in [name for name in tensors if "DenseReluDense" in name]:
            tensors[name.removesuffix("weight") + "scale_weight"] = scale = tensors[name].abs().max().float() / 448
            tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
        save_file(tensors | {"scaled_fp8": torch.zeros(2)}, folder / "model.safetensors")

    return one_file(place, write)


@case("models: T5 in nvfp4")
def text_in_nvfp4(place):
    def write(tensors: dict, folder: Path) -> None:
        mark = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
        name = first(tensors, "DenseReluDense.wo").removesuffix(".weight")
        save_file(tensors | {f"{name}.comfy_quant": mark}, folder / "model.safetensors")

    return one_file(place, write)


@case("models: denoiser in int8")
def int8_denoiser(place):
    release = changed(place, "hallo3", VAE_FILE)
    convert(place.release, release, "int8")
    return Case({"--models": release})


@case("models: configuration with a byte order mark")
def marked_config(place):
    content = (place.release / WAV2VEC_FOLDER / "config.json").read_bytes()
    return replaced(place, f"{WAV2VEC_FOLDER}/config.json", codecs.BOM_UTF8 + content)


def configured(place: Place, folder: str, **values) -> Case:
    config = json.loads((place.release / folder / "config.json").read_text())
    return replaced(place, f"{folder}/config.json", json.dumps(config | values).encode())


@case("models: configuration of another model")
def config(place):
    return configured(place, TEXT_FOLDER, model_type="bert")


@case("models: configuration of a billion layers")
def layers(place):
    return configured(place, WAV2VEC_FOLDER, num_hidden_layers=10**9)


@case("models: configuration names code to run")
def remote_code(place):
    """It is neither fetched nor run: the film is the same."""
    return configured(place, WAV2VEC_FOLDER, auto_map={"AutoModel": "someone/repository--modeling.Model"})


@case("models: no tokenizer")
def tokenizer(place):
    return Case({"--models": changed(place, f"{TEXT_FOLDER}/spiece.model")})


@case("models: tokenizer damaged")
def damaged_tokenizer(place):
    return replaced(place, f"{TEXT_FOLDER}/spiece.model", bytes(range(256)))


@case("models: NaN in T5")
def nan_text(place):
    return respelt(place, f"{TEXT_FOLDER}/{SHARD}", lambda t: [spoil(t, name) for name in list(t)])


@case("models: wav2vec2 of another size")
def wrong_wav2vec(place):
    release = changed(place, WAV2VEC_FOLDER)
    write_tiny_wav2vec(release / WAV2VEC_FOLDER, dim=32, layers=3)
    return Case({"--models": release})


@case("models: NaN in wav2vec2")
def nan_wav2vec(place):
    return respelt(place, f"{WAV2VEC_FOLDER}/model.safetensors", lambda t: spoil(t, "encoder.layers.0"))


@case("models: no face models")
def no_faces(place):
    return Case(
        {"--models": changed(place, *(f"face_analysis/models/{n}.onnx" for n in ("glintr100", "scrfd_10g_bnkps")))}
    )


@case("models: face detector cut short")
def cut_face(place):
    name = "face_analysis/models/scrfd_10g_bnkps.onnx"
    return replaced(place, name, (place.release / name).read_bytes()[:5000])


@case("models: unknown way to read sound")
def unknown_conditioning(place):
    release = changed(place, "hallo3")
    tensors = torch.load(place.release / TRANSFORMERS, weights_only=True)["module"]
    own = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file(own, release / "hallo3_own.safetensors", {"conditioning": json.dumps({"audio": "both"})})
    return Case({"--models": release})


@case("LoRA: to be merged, not there")
def no_lora_to_merge(place):
    words = ["convert", place.release, place.folder / "merged", "--merge", place.folder / "none.safetensors"]
    return Case(command=words, frames=None)


@case("LoRA: to be merged, of another model")
def foreign_lora_to_merge(place):
    (path,) = foreign_lora(place).options.values()
    return Case(command=["convert", place.release, place.folder / "merged", "--merge", path], frames=None)


@case("LoRA: not there")
def no_lora(place):
    return Case({"--lora": place.folder / "none.safetensors"})


@case("LoRA: whole model")
def whole_model(place):
    return Case({"--lora": place.release / TRANSFORMERS})


@case("LoRA: of another model")
def foreign_lora(place):
    names = ("lora_unet_down_blocks_0_attn_to_q.lora_down.weight", "lora_unet_down_blocks_0_attn_to_q.lora_up.weight")
    return lora(place, **dict(zip(names, (torch.zeros(4, 320), torch.zeros(320, 4)), strict=True)))


@case("LoRA: some layers unknown")
def partly_known(place):
    stem = "transformer.transformer_blocks.0.attn1.to_v"
    pair = {f"{stem}.lora_A.weight": torch.zeros(4, 64), f"{stem}.lora_B.weight": torch.zeros(64, 4)}
    return lora(place, **pair, **{"transformer.something.lora_A.weight": torch.zeros(4, 4)})


STEM = "transformer.transformer_blocks.0.attn1.to_v"
PAIR = {f"{STEM}.lora_A.weight": torch.ones(4, 64), f"{STEM}.lora_B.weight": torch.ones(64, 4)}


@case("LoRA: no alpha in it")
def no_alpha(place):
    return lora(place, **PAIR)


@case("LoRA: damaged adapter_config.json beside it")
def damaged_settings(place):
    (place.folder / "adapter_config.json").write_text("{")
    return lora(place, **PAIR)


@case("LoRA: 300 layers unknown")
def many_unknown(place):
    unknown = {f"transformer.block_{n:03}.{'x' * 40}.lora_A.weight": torch.zeros(4, 4) for n in range(300)}
    return lora(place, **PAIR, **unknown)


@case("LoRA: DoRA")
def dora(place):
    return lora(place, **PAIR, **{f"{STEM}.lora_magnitude_vector": torch.ones(64), f"{STEM}.alpha": torch.tensor(4.0)})


@case("LoRA: LoHa")
def loha(place):
    return lora(place, **{f"{STEM}.hada_w1_a": torch.ones(64, 4)})


@case("inspect: text file")
def inspected(place):
    (place.folder / "x.safetensors").write_text("nothing")
    return Case(command=["inspect", place.folder / "x.safetensors"])
