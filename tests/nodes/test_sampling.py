"""Sampling nodes: the same film as the core's own pipeline, the cost shown on the node, Cancel, and wrong inputs."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import pytest
import torch

from tools.testbed.exact_film import film_clips

SETTINGS = dict(steps=3, audio_cfg=3.5, text_cfg=3.5, reference_cfg=1.0, sampler="sde-dpmpp-2m")


@pytest.fixture
def sample(pack, loaded, scene):
    """Run the node Hallo3SampleClip; inputs that are left out are the scene's."""
    node = pack("nodes.sampling").Hallo3SampleClip

    def run(**changes) -> torch.Tensor:
        inputs = dict(model=loaded.model, vae=loaded.vae, clip_index=0, seed=11, **vars(scene), **SETTINGS)
        return node().execute(**{**inputs, **changes})[0]["samples"]

    return run


@pytest.fixture(scope="module")
def core(pack, models, loaded, scene):
    """The core without any host, on the same inputs: `core(settings)` yields the film clip by clip."""
    release = pack("hallo3_core.release.layout").Release(models / "hallo3" / "tiny")
    places = ("sampling.noise", "inputs.audio")
    noise, audio = (pack(f"hallo3_core.{place}") for place in places)
    denoiser, vae = release.network("denoiser", dtype=torch.float32), release.vae(dtype=torch.float32)
    project = release.network("audio_projector", dtype=torch.float32)
    face = release.network("face_projector", dtype=torch.float32)(scene.face.embedding[None])

    def film(settings, seed=11):
        windows = [audio.clip_audio(scene.audio, clip)[None] for clip in range(scene.audio.clips)]
        run = pack("hallo3_core.pipeline.conditions").prepare_run(
            denoiser,
            scene.reference,
            settings,
            text=scene.text[0][0],
            face_tokens=face,
            null_audio_tokens=project(torch.zeros_like(windows[0])),
        )
        tokens = [project(window) for window in windows]
        return film_clips(
            denoiser,
            vae,
            run,
            scene.reference,
            scene.audio.frames,
            tokens.__getitem__,
            lambda c: noise.SeededNoise(seed, c),
        )

    return film


SCALES = [(1.0, 3.5, 3.5), (1.5, 2.0, 3.0), (1.0, 1.0, 1.0)]


@pytest.mark.parametrize(("reference", "audio", "text"), SCALES)
def test_a_clip_equals_the_cores(pack, sample, core, loaded, reference, audio, text):
    guidance = pack("hallo3_core.sampling.guidance")
    settings = pack("hallo3_core.pipeline.options").Settings(
        steps=3, guidance=guidance.Guidance(guidance.Scales(reference, audio, text))
    )
    latent = sample(reference_cfg=reference, audio_cfg=audio, text_cfg=text)
    frames = loaded.vae.decode(latent)[0]
    torch.testing.assert_close(frames[2:].movedim(-1, 1), next(iter(core(settings))), atol=1e-5, rtol=0)


def test_a_chain_by_hand_equals_the_cores_film(pack, sample, core, loaded, scene, sampler="dpmpp-2m"):
    settings = pack("hallo3_core.pipeline.options").Settings(steps=3, sampler=sampler)
    motion_of = pack("nodes.types").Motion
    motion, frames = None, []
    for clip in range(scene.audio.clips):
        decoded = loaded.vae.decode(sample(sampler=sampler, clip_index=clip, motion=motion))[0].movedim(-1, 1)
        motion = motion_of(decoded[-2:])
        frames.append(decoded[2:])
    film = torch.cat(frames)[: scene.audio.frames]
    torch.testing.assert_close(film, torch.cat(list(core(settings))), atol=2e-5, rtol=0)


@pytest.fixture
def call_counts(pack, monkeypatch):
    """How many samples the network was asked for, in all."""
    network = pack("nodes.host.model").HostDenoiser
    counts, original = [], network._call

    def counting(self, x, *rest):
        counts.append(len(x))
        return original(self, x, *rest)

    monkeypatch.setattr(network, "_call", counting)
    return counts


@pytest.mark.parametrize(
    ("changes", "calls"),
    [
        ({}, 2),
        (dict(reference_cfg=3.5), 2),
        (dict(audio_cfg=1.0, text_cfg=1.0), 1),
        (dict(audio_cfg=2.0), 3),
        (dict(reference_cfg=1.5, audio_cfg=2.0), 4),
    ],
)
def test_a_model_call_of_weight_zero_never_runs(sample, call_counts, changes, calls):
    sample(**changes)
    assert sum(call_counts) == SETTINGS["steps"] * calls


def test_guidance_can_end_early(pack, sample, call_counts):
    sample(steps=4, guidance_stop=0.5)
    assert sum(call_counts) == 2 * 2 + 2 * 1


def test_the_cost_that_is_shown_is_the_cost(pack):
    guidance = pack("hallo3_core.sampling.guidance")
    settings = pack("hallo3_core.pipeline.options").Settings(
        steps=4, guidance=guidance.Guidance(guidance.Scales(), 0, 0.5)
    )
    assert pack("nodes.host.sampling").cost(settings) == "1 to 2 model calls a step, 6 in all"


def test_cancel_leaves_nothing_behind_and_the_next_run_works(sample, press_cancel, pack, monkeypatch):
    guiders = []
    guider = pack("nodes.host.sampling").Guider
    monkeypatch.setattr(
        pack("nodes.host.sampling"), "Guider", lambda *args: guiders.append(guider(*args)) or guiders[-1]
    )
    before = sample()
    with pytest.raises(press_cancel(2)):
        sample()
    assert not {"conds", "inner_model", "loaded_models"} & vars(guiders[-1]).keys()
    assert torch.equal(sample(), before)


def test_cores_samplers_run_the_guider_to_the_same_place(pack, loaded, scene, sample):
    """The core's solver through the GUIDER socket, on the scheduler's SIGMAS, is the node Hallo3SampleClip."""
    nodes, solver = pack("nodes.sampling"), pack("nodes.host.solver")
    scales = {name: SETTINGS[name] for name in ("audio_cfg", "text_cfg", "reference_cfg")}
    guider, empty = nodes.Hallo3Guider().execute(
        model=loaded.model, vae=loaded.vae, clip_index=0, seed=11, **vars(scene), **scales
    )
    sigmas = nodes.Hallo3Scheduler().execute(3, 1.0)[0]
    draws = pack("hallo3_core.sampling.noise").SeededNoise(11, 0)
    exact = solver.ExactSolver(pack("hallo3_core.sampling.schedule").make_schedule(3), SETTINGS["sampler"], draws)
    start = draws.initial((1, 16, 13, 2, 4))
    assert torch.equal(empty["samples"], torch.zeros_like(start))
    found = guider.sample(start, empty["samples"], exact, sigmas, disable_pbar=True, seed=11)
    torch.testing.assert_close(found, sample(), atol=1e-5, rtol=0)


@pytest.mark.skipif(not os.environ.get("COMFYUI_PATH"), reason="needs ComfyUI's own samplers")
def test_cores_euler_on_our_sigmas_is_ddim(pack, loaded, scene, sample):
    """They are the same method; what is left is rounding at pure noise, which core's samplers hold as 1e5."""
    import comfy.samplers

    nodes = pack("nodes.sampling")
    scales = dict(audio_cfg=1.0, text_cfg=1.0, reference_cfg=1.0)
    inputs = dict(model=loaded.model, vae=loaded.vae, clip_index=0, seed=11, **vars(scene), **scales)
    guider = nodes.Hallo3Guider().execute(**inputs)[0]
    start = pack("hallo3_core.sampling.noise").SeededNoise(11, 0).initial((1, 16, 13, 2, 4))
    euler, sigmas = comfy.samplers.sampler_object("euler"), nodes.Hallo3Scheduler().execute(6, 1.0)[0]
    found = guider.sample(start, torch.zeros_like(start), euler, sigmas, disable_pbar=True, seed=11)
    torch.testing.assert_close(found, sample(steps=6, sampler="ddim", **scales), atol=0.02, rtol=0)


def test_the_scheduler_counts_from_the_end(pack):
    node = pack("nodes.sampling").Hallo3Scheduler()
    whole, half = node.execute(10, 1.0)[0], node.execute(10, 0.45)[0]
    assert len(whole) == 11 and whole[-1] == 0
    assert (whole[1:] < whole[:-1]).all()
    assert torch.equal(half, whole[-6:])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(clip_index=2), "clip 2 does not exist: the recording has 2 clips"),
        (dict(audio_cfg=math.nan), "audio_cfg is nan"),
        (dict(reference_cfg=math.inf), "reference_cfg is inf"),
        (dict(text_cfg=-1), "text_cfg is -1: choose a number from 0 to 20"),
        (dict(steps=0), "steps is 0"),
        (dict(sampler="heun"), "sampler is 'heun'"),
        (dict(seed=-1), "seed is -1"),
        (dict(guidance_start=0.8, guidance_stop=0.2), "guidance runs from 0.8 to 0.2"),
        (dict(model=object()), "model: found an object of type object, expected MODEL. Connect Hallo3 Model Loader"),
        (dict(vae=object()), "vae: found an object of type object, expected VAE. Connect Hallo3 VAE Loader"),
        (
            dict(text=[[torch.zeros(1, 77, 40), {}]]),
            r"text of shape \[1, 77, 40\], the denoiser reads 226 tokens of 40",
        ),
        (dict(text=[[torch.zeros(1, 226, 64), {}]]), "the denoiser reads 226 tokens of 40 values. Use T5-XXL"),
        (dict(text=[[torch.zeros(1, 452, 40), {}]]), "ConditioningConcat joined 2 prompts: write them as one"),
        (dict(text=[[torch.zeros(1, 256, 40), {}]]), "Use CLIPLoader's type cogvideox"),
        (dict(text=[[torch.zeros(3, 226, 40), {}]]), "It is a batch of 3 prompts: give one"),
        (dict(text=[]), "the conditioning has 0 parts"),
        (dict(text=[[torch.zeros(1, 226, 40), {}]] * 2), "the conditioning has 2 parts"),
    ],
)
def test_wrong_inputs_are_refused(pack, sample, changes, words):
    with pytest.raises(pack("hallo3_core.errors").InputError, match=words):
        sample(**changes)


@pytest.mark.parametrize(
    ("shape", "words"), [((2, 3, 96, 144), "144x96, the video is 32x16"), ((3, 3, 16, 32), "3 motion frames")]
)
def test_motion_frames_of_another_film_are_refused(pack, sample, shape, words):
    with pytest.raises(pack("hallo3_core.errors").InputError, match=words):
        sample(clip_index=1, motion=pack("nodes.types").Motion(torch.zeros(shape)))


@pytest.mark.parametrize(
    ("clip", "before", "words"),
    [
        (1, 1, "it is the end of clip 1, but clip 1 needs the motion of clip 0"),
        (0, 0, "it is the end of clip 0, but clip 0 needs no motion"),
    ],
)
def test_the_end_of_another_clip_is_refused(pack, sample, clip, before, words):
    motion = pack("nodes.chaining").Hallo3MotionFrames().execute(torch.zeros(49, 16, 32, 3), 2, before)[0]
    with pytest.raises(pack("hallo3_core.errors").InputError, match=words):
        sample(clip_index=clip, motion=motion)


def test_a_later_clip_without_motion_is_told_to_jump(sample, pack, caplog):
    sample(clip_index=1, steps=1)
    assert "clip 1 has no motion: it begins from the portrait, and the video jumps there" in caplog.text
    caplog.clear()
    frames = torch.zeros(49, 16, 32, 3)
    for known in (0, -1):
        sample(clip_index=1, steps=1, motion=pack("nodes.chaining").Hallo3MotionFrames().execute(frames, 2, known)[0])
    sample(steps=1)
    assert "has no motion" not in caplog.text


def test_a_reference_or_sound_of_another_model_is_refused(pack, sample, scene):
    error = pack("hallo3_core.errors").InputError
    with pytest.raises(error, match="the reference has 2 layers of 64, the denoiser 3 of 64"):
        sample(reference=replace(scene.reference, bank=scene.reference.bank[:2]))
    with pytest.raises(error, match="its wav2vec2 gives 240 values a frame, the denoiser reads 360"):
        sample(audio=replace(scene.audio, hidden=scene.audio.hidden[:, :2]))


def test_a_latent_of_another_size_is_refused(pack, loaded, scene):
    nodes = pack("nodes.sampling")
    scales = {name: SETTINGS[name] for name in ("audio_cfg", "text_cfg", "reference_cfg")}
    guider = nodes.Hallo3Guider().execute(
        model=loaded.model, vae=loaded.vae, clip_index=0, seed=11, **vars(scene), **scales
    )[0]
    noise = torch.zeros(1, 16, 13, 12, 18)
    with pytest.raises(pack("hallo3_core.errors").InputError, match="32x16 and 49 frames"):
        guider.sample(noise, noise, None, nodes.Hallo3Scheduler().execute(3, 1.0)[0])


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_a_schedule_is_known_by_its_noise_levels(pack, steps):
    solver, schedule = pack("nodes.host.solver"), pack("hallo3_core.sampling.schedule").make_schedule(steps)
    sigmas = solver.sigmas_of(schedule)
    assert solver.timesteps_of(sigmas) == list(schedule.timesteps)
    if steps > 2:  # a piece of it too, as SplitSigmas cuts it
        assert solver.timesteps_of(sigmas[2:-1]) == list(schedule.timesteps[2:-1])


def test_noise_levels_of_others_are_left_to_the_host(pack):
    assert pack("nodes.host.solver").timesteps_of(torch.tensor([14.6, 7.0, 3.0, 1.0, 0.0])) is None


def test_the_network_receives_the_true_timesteps(pack, sample, monkeypatch):
    network = pack("nodes.host.model").HostDenoiser
    seen, original = [], network._call

    def listening(self, x, timesteps, *rest):
        seen.append(timesteps.unique().tolist())
        return original(self, x, timesteps, *rest)

    monkeypatch.setattr(network, "_call", listening)
    sample(steps=6)
    assert seen == [[999], [832], [666], [499], [333], [166]]


def test_while_steps_are_taken_only_the_denoiser_is_on_the_device(pack, loaded, sample, monkeypatch):
    import comfy.model_management as management

    network = pack("nodes.host.model").HostDenoiser
    present, original = [], network._call

    def looking(self, *args):
        present.append({type(loaded.model.model).__name__ for loaded in management.current_loaded_models})
        return original(self, *args)

    monkeypatch.setattr(network, "_call", looking)
    management.load_models_gpu([loaded.reference_net.patcher, loaded.wav2vec.patcher])
    sample()
    assert present == [{"Model"}] * SETTINGS["steps"]


def test_modulation_is_computed_before_the_steps_and_not_in_them(pack, sample, monkeypatch):
    denoiser = pack("hallo3_core.model.denoiser").Denoiser
    counts, original = [], denoiser.modulate_steps

    def counting(self, timesteps, dtype):
        counts.append(timesteps.tolist())
        return original(self, timesteps, dtype)

    monkeypatch.setattr(denoiser, "modulate_steps", counting)
    sample(steps=6)
    assert counts == [[999, 832, 666, 499, 333, 166]]


@pytest.mark.skipif(not os.environ.get("COMFYUI_PATH"), reason="needs ComfyUI's TorchCompileModel")
def test_a_compiled_model_makes_the_same_clip(loaded, sample):
    """The node's own way of compiling, with a backend that needs no compiler: the graph is what could go wrong."""
    torch_helpers = pytest.importorskip("comfy_api.torch_helpers")
    compiled = loaded.model.clone()
    torch_helpers.set_torch_compile_wrapper(model=compiled, backend="eager")
    torch.testing.assert_close(sample(model=compiled), sample(), atol=1e-5, rtol=0)
