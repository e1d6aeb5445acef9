"""Hallo3 Long Video under a key: what Cancel or a crash leaves is gone on with, and ends in the same film."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch


@pytest.fixture
def sampled(pack, monkeypatch):
    """The numbers of the clips that were sampled."""
    sampler, clips = pack("nodes.host.sampling").ClipSampler, []
    original = sampler.sample
    monkeypatch.setattr(sampler, "sample", lambda self, clip, *rest: clips.append(clip) or original(self, clip, *rest))
    return clips


@pytest.fixture
def key(request):
    return f"test {request.node.name}"


@pytest.fixture
def folder(pack, key) -> Path:
    return pack("nodes.host.resume").folder_of(key)


def kept(folder: Path) -> int:
    """Clips that the manifests count."""
    return sum(len(json.loads(path.read_text())["clips"]) for path in folder.glob("*/manifest.json"))


def test_a_key_changes_nothing_of_the_film_and_leaves_nothing(film, key, folder):
    assert film(resume_key=key).read_bytes() == film().read_bytes()
    assert not folder.exists() and folder.parent.name == "hallo3_resume"


def test_after_cancel_it_goes_on_at_the_first_missing_clip(film, sampled, press_cancel, key, folder, caplog):
    whole = film().read_bytes()
    caplog.set_level("INFO")
    with pytest.raises(press_cancel(3)):  # in the second clip
        film(resume_key=key)
    assert kept(folder) == 1
    sampled.clear()
    assert film(resume_key=key).read_bytes() == whole
    assert sampled == [1] and not folder.exists()
    assert "1 finished clips are there from an earlier run" in caplog.text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (dict(seed=12), "seed was 11, is 12"),
        (dict(steps=3), "steps was 2, is 3"),
        (dict(color_hold=0.5), "color hold was 0, is 0.5"),
        (dict(seam_fade=8), "seam fade was 0, is 8"),
        (dict(audio_cfg=2.0), "scales was"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_setting_under_the_key_starts_afresh_and_says_so_on_the_node(
    film, sampled, press_cancel, key, folder, caplog, changes, reason
):
    with pytest.raises(press_cancel(3)):
        film(resume_key=key)
    sampled.clear()
    film(resume_key=key, **changes)
    assert sampled == [0, 1] and f"starting afresh: {reason}" in caplog.text and kept(folder) == 1
    assert all(record.levelname == "WARNING" for record in caplog.records if "starting afresh" in record.getMessage())
    sampled.clear()
    film(resume_key=key)
    assert sampled == [1] and not folder.exists()


def test_every_input_of_the_node_counts(pack, loaded, scene, sampler_of):
    resume, differences = pack("nodes.host.resume"), pack("hallo3_core.film.fingerprint").differences
    clips = sampler_of(2)
    before = resume.inputs_of(clips, 0.0, 0)
    assert not differences(before, resume.inputs_of(sampler_of(2), 0.0, 0))
    portrait, features = clips.portrait, clips.features
    waveform = features.recording.waveform
    for name, other in {
        "portrait": replace(clips, portrait=replace(portrait, pixels=portrait.pixels * 0.99)),
        "reference": replace(clips, portrait=replace(portrait, bank=[-each for each in portrait.bank])),
        "recording": replace(
            clips, features=replace(features, recording=replace(features.recording, waveform=waveform * 0.99))
        ),
        "features of the recording": replace(clips, features=replace(features, hidden=features.hidden.flip(0))),
        "text": replace(clips, text=clips.text.flip(1)),
        "face": replace(clips, face_tokens=-clips.face_tokens),
    }.items():
        assert differences(before, resume.inputs_of(other, 0.0, 0)) == f"{name} changed"


def test_patches_and_options_of_the_model_count(pack, loaded):
    resume = pack("nodes.host.resume")
    before = resume.model_inputs(loaded.model)
    assert resume.model_inputs(loaded.model.clone()) == before
    patched, wrapped = loaded.model.clone(), loaded.model.clone()
    name = "diffusion_model.blocks.0.mlp.up.weight"
    weight = dict(loaded.model.model.named_parameters())[name]
    patched.patches[name] = [(1.0, ("diff", (torch.ones_like(weight),)), 1.0, None, None)]
    wrapped.model_options["transformer_options"]["wrappers"] = {"diffusion_model": {"cache": [len]}}
    changed = [
        {key for key, value in before.items() if other[key] != value}
        for other in map(resume.model_inputs, (patched, wrapped))
    ]
    assert changed == [{"patches of the model (LoRAs)"}, {"options of the model"}]
    stronger = patched.clone()
    stronger.patches[name] = [(0.5, *patched.patches[name][0][1:])]
    assert resume.model_inputs(stronger) != resume.model_inputs(patched)


@pytest.mark.parametrize(
    "key",
    ["../../etc", "/absolute", "a/b", "a\\b", "..", ".", "C:\\x", "nul\0byte", "名前", "x" * 500, "a b", "\ud800", "~"],
)
def test_no_key_leads_out_of_the_folder(pack, key):
    folder = pack("nodes.host.resume").folder_of(key)
    output = Path(importlib.import_module("folder_paths").get_output_directory())
    assert folder.resolve().parent == (output / "hallo3_resume").resolve()
    assert len(folder.name) < 100 and folder.name.isascii() and "." not in folder.name


def test_no_two_keys_share_a_folder(pack):
    folder_of = pack("nodes.host.resume").folder_of
    keys = ["a b", "a_b", "a/b", "a.b", "x" * 70, "x" * 71, "名", "前"]
    assert len({folder_of(key) for key in keys}) == len(keys)
    assert folder_of("my-film_2").name == "my-film_2"


def test_a_key_that_is_in_use_is_refused(pack, film, key, folder):
    with (
        pack("hallo3_core.film.work_folder").WorkFolder(folder, "other"),
        pytest.raises(pack("hallo3_core.errors").InputError, match="another run is making it"),
    ):
        film(resume_key=key)


def test_the_bar_counts_clips_that_are_there(pack, film, press_cancel, monkeypatch, key):
    progress, texts = pack("nodes.host.progress"), []
    with pytest.raises(press_cancel(3)):
        film(resume_key=key)
    monkeypatch.setattr(progress, "show_text", lambda text, node_id: texts.append(text))
    film(resume_key=key, node_id="5")
    assert texts[0] == "clip 1 of 2 is there from an earlier run"
    assert texts[1].startswith("clip 2 of 2, step 1 of 2")


def test_out_of_memory_is_tried_again_with_one_model_call_after_another(pack, film, monkeypatch):
    whole, sampler = film().read_bytes(), pack("nodes.host.sampling").ClipSampler
    progress, texts, batched = pack("nodes.host.progress"), [], []
    original = sampler.sample

    def sample(self, clip, *rest):
        batched.append((clip, self.settings.batched))
        latent = original(self, clip, *rest)
        if len(batched) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return latent

    monkeypatch.setattr(sampler, "sample", sample)
    monkeypatch.setattr(progress, "show_text", lambda text, node_id: texts.append(text))
    found = film().read_bytes()
    assert batched == [(0, True), (1, True), (1, False)]
    assert "out of memory while sampling as fast as it goes: trying again with one model call after another" in texts
    assert abs(len(found) - len(whole)) < 0.1 * len(whole)


def test_one_model_call_after_another_is_the_same_clip(sampler_of):
    clips = sampler_of(2)
    in_turn = replace(clips, settings=replace(clips.settings, batched=False))
    assert (clips.sample(0, None) - in_turn.sample(0, None)).abs().max() < 1e-4


def test_values_that_are_not_finite_are_reported_with_clip_and_step(pack, sampler_of, monkeypatch):
    guider, calls = pack("nodes.host.guider"), []
    original = guider.combine

    def combine(*args):
        calls.append(args)
        return original(*args) * (float("nan") if len(calls) == 2 else 1)

    monkeypatch.setattr(guider, "combine", combine)
    with pytest.raises(
        pack("hallo3_core.errors").InputError, match=r"clip 2 of 2, step 2 of 3: the latent holds values"
    ):
        clips = sampler_of(3)
        clips.sample(1, pack("nodes.types").Motion(torch.zeros(2, 3, 16, 32)))
