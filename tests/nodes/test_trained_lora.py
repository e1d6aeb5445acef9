"""A LoRA of this project's own training in the nodes: the film that the core makes with the same file, and undone."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest
import torch

from hallo3_core.pipeline.networks import Networks, load_denoiser
from hallo3_core.pipeline.options import Options
from hallo3_core.release.layout import Release
from hallo3_core.toy.noise_release import write_tiny_release
from hallo3_core.train.cache import cache_films
from hallo3_core.train.loop import train
from hallo3_core.train.lora import GROUPS, Lora
from tests.nodes.conftest import SETTINGS
from tests.train import toys
from tests.train.variants import toy_encoders
from tools.testbed.exact_film import film_clips

pytest.importorskip("peft")
STRENGTH = 0.8


@pytest.fixture(scope="module")
def trained(models, tmp_path_factory):
    """Two steps of all groups, in models/loras."""
    release, folder = models / "hallo3" / "tiny", tmp_path_factory.mktemp("lora")
    groups = Lora(groups=tuple(GROUPS), rank=3, alpha=6.0)
    config = toys.configuration(folder, "lora", lora=groups, release=release, batch=1)
    config = replace(config, data=replace(config.data, windows=1, references=1, held_out=0))
    config = replace(config, rates=replace(config.rates, peak=0.05), stop=replace(config.stop, steps=2))
    encoders = toy_encoders(release)
    with torch.inference_mode(False):
        entries = cache_films(toys.films(1), encoders, config.data, None)
        path = train(config, encoders=encoders, entries=entries).path
    target = models / "loras" / "trained.safetensors"
    target.write_bytes(path.read_bytes())
    return target


def portrait_of(pack, vae, reference_net):
    """A portrait by a reference network; the same picture each time."""
    draw, image = torch.Generator().manual_seed(3), pack("hallo3_core.inputs.image")
    return pack("hallo3_core.inputs.portrait").prepare_portrait(
        torch.rand(1, 3, 60, 80, generator=draw),
        torch.ones(60, 80),
        image.plan_framing(60, 80, 16, 32),
        vae,
        reference_net,
        with_null=True,
    )


def core_film(pack, scene, release, options) -> torch.Tensor:
    networks = Networks(Release(release), options)
    with networks.vae() as vae, networks.part("reference_net") as reference_net:
        portrait = portrait_of(pack, vae, reference_net)
    with networks.part("face_projector") as project:
        face_tokens = project(scene.face.embedding[None])
    windows = [pack("hallo3_core.inputs.audio").clip_audio(scene.audio, clip)[None] for clip in range(2)]
    with networks.part("audio_projector") as project:
        sounds, silence = [project(window) for window in windows], project(torch.zeros_like(windows[0]))
    run_settings = pack("hallo3_core.pipeline.options").Settings(steps=SETTINGS["steps"])
    denoiser = load_denoiser(Release(release), networks.config, options, networks.loras)
    conditions = dict(text=scene.text[0][0], face_tokens=face_tokens, null_audio_tokens=silence)
    run = pack("hallo3_core.pipeline.conditions").prepare_run(denoiser, portrait, run_settings, **conditions)
    noise = pack("hallo3_core.sampling.noise").SeededNoise
    with networks.vae() as vae:
        clips = film_clips(
            denoiser, vae, run, portrait, scene.audio.frames, sounds.__getitem__, lambda clip: noise(11, clip)
        )
        return torch.cat(list(clips))


def test_the_node_makes_the_cores_film_and_leaves_the_model_as_it_was(
    pack, loaded, scene, trained, models, monkeypatch
):
    """In float32, before any rounding to bytes: denoiser, reference network and projectors have the LoRA, then not."""
    release, decoded = models / "hallo3" / "tiny", []
    host = pack("nodes.host.film")
    decode = host.decode
    monkeypatch.setattr(host, "decode", lambda *args: decoded.append(decode(*args)) or decoded[-1])

    def node_film(model, reference_net) -> torch.Tensor:
        decoded.clear()
        run = pack("nodes.host.networks").run_reference_net
        vae = pack("nodes.host.vae").CoreVae(loaded.vae)
        reference = portrait_of(pack, vae, lambda latent: run(reference_net, latent))
        inputs = {**vars(scene), "reference": reference}
        pack("nodes.film").Hallo3LongVideo().execute(model=model, vae=loaded.vae, seed=11, **inputs, **SETTINGS)
        timeline = pack("hallo3_core.clips").Timeline(scene.audio.frames)
        return torch.cat([timeline.new_frames(frames, clip) for clip, frames in enumerate(decoded)])

    loader = pack("nodes.loaders").Hallo3LoraLoader()
    with_lora = loader.execute(loaded.model, trained.name, STRENGTH, loaded.reference_net)
    plain = core_film(pack, scene, release, Options())
    expected = core_film(pack, scene, release, Options(loras=((trained, STRENGTH),)))
    assert (expected - plain).abs().max() > 1e-2
    assert (node_film(*with_lora) - expected).abs().max() <= 1e-5
    assert (node_film(loaded.model, loaded.reference_net) - plain).abs().max() <= 1e-5
    without = loader.execute(loaded.model, trained.name, 0.0, loaded.reference_net)
    assert torch.equal(node_film(*without), node_film(loaded.model, loaded.reference_net))


def test_the_node_opens_the_file_once(pack, loaded, trained, monkeypatch):
    opened, reading = [], pack("hallo3_core.weights.reading")
    read = reading._read
    monkeypatch.setattr(reading, "_read", lambda path: opened.append(path) or read(path))
    for reference_net in (None, loaded.reference_net):
        opened.clear()
        pack("nodes.loaders").Hallo3LoraLoader().execute(loaded.model, trained.name, 1.0, reference_net)
        assert opened == [trained]


def test_a_reference_network_that_is_not_connected_is_warned_of(pack, loaded, trained, caplog):
    model, nothing = pack("nodes.loaders").Hallo3LoraLoader().execute(loaded.model, trained.name, 1.0)
    assert nothing is None and "connect reference_net" in caplog.text
    host = pack("nodes.host.model")
    assert (
        host.projectors_of(model).audio.patcher.patches and not host.projectors_of(loaded.model).audio.patcher.patches
    )
    assert host.projectors_of(model).face is host.projectors_of(loaded.model).face


def test_another_base_is_said_in_one_line(pack, loaded, trained, tmp_path, caplog):
    """Its own base is not, also while the host has another LoRA's changes in it."""
    loader, management = pack("nodes.loaders").Hallo3LoraLoader(), importlib.import_module("comfy.model_management")

    def said(model) -> int:
        caplog.clear()
        loader.execute(model, trained.name, 1.0, loaded.reference_net)
        return caplog.text.count("was trained on other weights than this denoiser's")

    (patched, _) = loader.execute(loaded.model, trained.name, 1.0, loaded.reference_net)
    assert said(loaded.model) == 0
    management.load_models_gpu([patched])
    assert said(patched) == 0
    management.load_models_gpu([loaded.model])
    other = write_tiny_release(tmp_path / "other", seed=1)
    assert said(pack("nodes.host.model").load_model(str(other))) == 1
