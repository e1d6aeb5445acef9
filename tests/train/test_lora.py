"""LoRAs from training to films: nothing at first, alone in their file, and the same wherever they are applied."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from hallo3_core.cli.main import main
from hallo3_core.errors import InputError
from hallo3_core.model.conditioning import Conditioning
from hallo3_core.model.denoiser import Denoiser
from hallo3_core.pipeline.choices import FP8_WEIGHTS
from hallo3_core.pipeline.clip import Conductor
from hallo3_core.pipeline.networks import Networks, load_denoiser
from hallo3_core.pipeline.options import Options
from hallo3_core.release.convert import convert
from hallo3_core.release.layout import TRANSFORMER_FOLDER, Release
from hallo3_core.release.lora.file import LoraFile
from hallo3_core.release.lora.merging import Merge
from hallo3_core.toy import noise_release as tiny
from hallo3_core.train.cache import cache_films
from hallo3_core.train.config import from_values
from hallo3_core.train.loop import train
from hallo3_core.train.lora import GROUPS, Lora, add_lora, file_tensors
from hallo3_core.train.materials import input_sizes
from hallo3_core.train.start import Maker, networks_of, read_start
from hallo3_core.weights import names, reading
from tests.noise import noise
from tests.train import toys
from tests.train.variants import toy_encoders

pytest.importorskip("peft")
EVERYTHING = Lora(groups=tuple(GROUPS), rank=3, alpha=6.0)


@pytest.fixture(scope="module")
def entries(tiny_release):
    data = replace(toys.configuration(tiny_release).data, windows=1, references=1)
    return cache_films(toys.films(1), toy_encoders(tiny_release), data, None)


@pytest.fixture(scope="module")
def start(tiny_release):
    return read_start(Release(tiny_release).transformer_files)


def made(start, entries):
    config = toys.configuration(None, "lora")
    maker = Maker(config.network, torch.Generator().manual_seed(0))
    return networks_of(start, "lora", config.network, Conditioning(), input_sizes(entries[0]), maker)


@pytest.fixture(scope="module")
def trained(tiny_release, entries, tmp_path_factory):
    """Three steps of all groups, from the toy release; large ones, so that they show."""
    folder = tmp_path_factory.mktemp("lora")
    config = toys.configuration(folder, "lora", lora=EVERYTHING, release=tiny_release, batch=1)
    config = replace(config, data=replace(config.data, held_out=0), rates=replace(config.rates, peak=0.05))
    return train(config, encoders=toy_encoders(tiny_release), entries=entries).path


def velocity(networks) -> torch.Tensor:
    """Of all networks on a small grid."""
    config = networks.denoiser.config
    h, w = 4, 6
    with torch.no_grad():
        return networks(
            noise(1, 16, 3, h, w, seed=1),
            noise(1, 16, 3, h, w, seed=2),
            torch.tensor([437.0]),
            noise(1, config.text_tokens, config.text_width, seed=3),
            noise(1, 16, h, w, seed=4),
            noise(1, tiny.FACE_EMBEDDING, seed=5),
            noise(1, 9, tiny.WINDOW, tiny.AUDIO_LAYERS, tiny.AUDIO_WIDTH, seed=6),
        )


def test_at_first_it_is_the_base_bit_for_bit(start, entries):
    base, with_pairs = made(start, entries), made(start, entries)
    trains = add_lora(with_pairs, EVERYTHING, seed=3)
    assert trains and torch.equal(velocity(base), velocity(with_pairs))


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_is_its_matrices_and_no_others(start, entries, group):
    networks = made(start, entries)
    found = {name.split(".lora_")[0] for name in add_lora(networks, Lora((group,), rank=2, alpha=1), seed=0)}
    layers, both = networks.denoiser.config.layers, ("qkv", "out")
    attention = {
        "look": {f"denoiser.blocks.{n}.self_attention.{m}" for n in range(layers) for m in both},
        "identity": {f"reference_net.blocks.{n}.self_attention.{m}" for n in range(layers - 1) for m in both}
        | {f"denoiser.blocks.{n}.face_attention.{m}" for n in range(layers) for m in ("query", "key_value", "out")},
        "speech": {f"audio_projector.{m}" for m in ("proj1", "proj2", "proj3", "halve")}
        | {f"denoiser.blocks.{n}.audio_attention.{m}" for n in range(layers) for m in ("query", "key_value", "out")},
    }
    assert found == attention[group]


def test_a_seed_is_a_lora_and_nobody_elses_draws_change(start, entries):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pairs = []
    for seed in (1, 1, 2):
        networks = made(start, entries)
        trains = add_lora(networks, Lora(("look",), rank=2), seed)
        pairs.append({n: p.detach() for n, p in networks.named_parameters() if n in trains})
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, pairs[1][name]) for name, value in pairs[0].items())
    assert not all(torch.equal(value, pairs[2][name]) for name, value in pairs[0].items())


def test_the_file_holds_the_lora_alone(trained, start):
    with safe_open(trained, "pt") as file:
        keys, metadata = list(file.keys()), file.metadata()
        shapes = {key: file.get_slice(key).get_shape() for key in keys}
    assert all(key.endswith((".lora_A.weight", ".lora_B.weight", ".alpha")) for key in keys)
    assert all(3 in shape[:2] for key, shape in shapes.items() if not key.endswith(".alpha"))
    assert {key.split(".")[0] for key in keys} == {"diffusion_model", "reference_net", "audio_projector"}
    assert (metadata["rank"], metadata["alpha"], metadata["groups"]) == ("3", "6", "look,identity,speech")
    assert metadata["base"] == json.loads(metadata["hallo3_training"])["start"] == start.identity


def loaded_denoiser(release: Release, options: Options) -> Denoiser:
    networks = Networks(release, options)
    return load_denoiser(release, networks.config, options, networks.loras)


def test_a_file_is_opened_once_for_all_networks(trained, tiny_release, monkeypatch):
    opened = []

    def read(path: Path):
        opened.append(path)
        return read_slots(path)

    read_slots = reading._read
    monkeypatch.setattr(reading, "_read", read)
    networks = Networks(Release(tiny_release), Options(loras=((trained, 1.0),)))
    networks.check_loras()
    with networks.denoiser():
        for part in (names.REFERENCE_NET, names.FACE_PROJECTOR, names.AUDIO_PROJECTOR):
            with networks.part(part):
                pass
    assert opened.count(trained) == 1


def warnings_of(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if "was trained on other weights" in record.getMessage()]


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp8"])
def test_its_base_is_known_after_any_conversion(trained, tiny_release, tmp_path, dtype, caplog):
    """Two LoRAs of the same base: the first one's changes are not taken for another base."""
    shutil.copytree(tiny_release, tmp_path, ignore=shutil.ignore_patterns(TRANSFORMER_FOLDER), dirs_exist_ok=True)
    convert(tiny_release, tmp_path, dtype, merges=[Merge(trained, 0.0)])
    for fp8 in (None, FP8_WEIGHTS):
        options = Options(loras=((trained, 1.0), (trained, 1.0)), dtype=torch.bfloat16, fp8=fp8)
        loaded_denoiser(Release(tmp_path), options)
    begun = read_start(Release(tmp_path).transformer_files).denoiser()  # for a training that starts from it
    LoraFile.open(trained).warn_of_other_base(begun)
    assert all(tensor.itemsize > 1 for tensor in begun.values())
    assert not warnings_of(caplog)


def test_another_base_is_said_in_one_line(trained, tmp_path, caplog):
    other = tiny.write_tiny_release(tmp_path / "other", seed=1)
    options = Options(loras=((trained, 1.0),))
    loaded_denoiser(Release(other), options)
    (said,) = warnings_of(caplog)
    assert said.startswith(f"{trained}: was trained on other weights than this denoiser's (sampled values differ by 1")
    assert "Use the transformer file that it was trained on" in said and "\n" not in said
    caplog.clear()
    convert(other, tmp_path / "merged", merges=[Merge(trained, 0.5)])
    assert len(warnings_of(caplog)) == 1


def test_every_pair_has_learned(trained):
    with safe_open(trained, "pt") as file:
        assert all(file.get_tensor(key).any() for key in file.keys() if not key.endswith(".alpha"))


def test_applied_it_is_what_was_trained(start, entries, trained, tiny_release):
    """Networks with PEFT's pairs, and the release's own with the file, in all four of them."""
    networks = made(start, entries)
    add_lora(networks, EVERYTHING, seed=0)
    with safe_open(trained, "pt") as file:
        values = {key: file.get_tensor(key) for key in file.keys()}
    for name, parameter in networks.named_parameters():
        if ".lora_" in name:
            (key,) = (k for k in file_tensors({name: parameter.detach()}, EVERYTHING, torch.float32) if ".lora_" in k)
            parameter.data = values[key]
    expected = velocity(networks)
    options = Options(loras=((trained, 1.0),))
    own = made(start, entries)
    own.denoiser = loaded_denoiser(Release(tiny_release), options)
    networks_with_lora = Networks(Release(tiny_release), options)
    for part in (names.REFERENCE_NET, names.FACE_PROJECTOR, names.AUDIO_PROJECTOR):
        with networks_with_lora.part(part) as module:
            setattr(own, part, toys.copied(module))
    found = velocity(own)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (found - velocity(made(start, entries))).abs().max() > 1e-2 * expected.abs().max()


@pytest.fixture(scope="module")
def frames_of(tiny_release, portrait, short_speech, tmp_path_factory):
    """`frames_of(models, *options)`: what the command line writes into a film, before it is encoded."""

    def make(models, *options) -> torch.Tensor:
        written, finish = [], Conductor.finish

        def watch(conductor, frames, *others):
            made = finish(conductor, frames, *others)
            written.append(frames.clone())
            return made

        output = tmp_path_factory.mktemp("film") / "film.mp4"
        inputs = ["--image", portrait, "--audio", short_speech, "--prompt", "A person talks.", "--models", models]
        words = ["animate", *inputs, "--output", output, "--size", "32x48", "--steps", "2", "--device", "cpu", *options]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Conductor, "finish", watch)
            assert main([str(word) for word in words]) == 0
        return torch.cat(written)

    return make


def test_merged_it_makes_the_film_that_it_makes_beside(trained, tiny_release, frames_of, tmp_path):
    base = frames_of(tiny_release)
    beside = frames_of(tiny_release, "--lora", f"{trained}:0.8")
    merged = tmp_path / "merged"
    shutil.copytree(tiny_release, merged, ignore=shutil.ignore_patterns(TRANSFORMER_FOLDER))
    words = ["convert", tiny_release, merged, "--dtype", "fp32", "--merge", f"{trained}:0.8"]
    assert main([str(word) for word in words]) == 0
    assert (frames_of(merged) - beside).abs().max() <= 1e-5
    assert (base - beside).abs().max() > 1e-2
    assert torch.equal(frames_of(tiny_release, "--lora", f"{trained}:0"), base)


def test_a_merge_in_bf16_is_the_rounded_sum(trained, tiny_release, tmp_path):
    """In slices as in one: what a network in bf16 with the LoRA beside it computes with."""
    target = tmp_path / "merged"
    convert(tiny_release, target, "bf16", merges=[Merge(trained, 0.8)])
    options = Options(loras=((trained, 0.8),), dtype=torch.bfloat16)
    release = Release(tiny_release)
    expected = dict(loaded_denoiser(release, options).named_parameters())
    shutil.copytree(tiny_release, tmp_path / "m", ignore=shutil.ignore_patterns(TRANSFORMER_FOLDER))
    shutil.copytree(target, tmp_path / "m", dirs_exist_ok=True)
    found = dict(Release(tmp_path / "m").network(names.DENOISER, dtype=torch.bfloat16).named_parameters())
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_file_that_was_merged_with_another_is_written_again(trained, tiny_release, tmp_path):
    (first, *_) = convert(tiny_release, tmp_path, merges=[Merge(trained, 0.5)])
    before = first.read_bytes()
    convert(tiny_release, tmp_path, merges=[Merge(trained, 0.5)])
    assert first.read_bytes() == before
    convert(tiny_release, tmp_path, merges=[Merge(trained, 0.6)])
    assert first.read_bytes() != before
    with pytest.raises(InputError, match="strength nan"):
        convert(tiny_release, tmp_path, merges=[Merge(trained, float("nan"))])


def test_a_group_that_the_networks_lack_is_refused(start, entries):
    networks = made(start, entries)
    networks.audio_projector = None
    for block in networks.denoiser.blocks:
        del block.audio_attention
    with pytest.raises(InputError, match="speech has no modules"):
        add_lora(networks, Lora(("speech",)), 0)


@pytest.mark.parametrize("lora", [dict(rank=0), dict(alpha=0.0), dict(groups=()), dict(alpha=float("nan"))])
def test_a_lora_that_cannot_be_is_refused(tmp_path, lora):
    config = toys.configuration(tmp_path, "lora", lora=replace(EVERYTHING, **lora))
    with pytest.raises(InputError, match=rf"lora.{next(iter(lora))} is "):
        train(config, entries=[])


def test_an_unknown_group_is_refused_with_those_that_exist():
    with pytest.raises(InputError, match="expected one of look, identity, speech"):
        from_values(Lora, {"groups": ["looks"]}, "run.yaml")
