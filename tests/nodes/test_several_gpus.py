"""Branches on several devices, as core's MultiGPU CFG Split computes them: the model can be cloned, the result is one.

A second device is played by the CPU under another name, where the host itself takes part.
"""

from __future__ import annotations

import os

import pytest
import torch

REAL = bool(os.environ.get("COMFYUI_PATH"))
SECOND = torch.device("cpu", 0)  # for torch not the same as "cpu"


@pytest.fixture
def conditions(pack, sampler_of, monkeypatch):
    """What the steps of a clip share, as the guider made it."""
    guider = pack("nodes.host.guider").Guider
    kept, prepare = [], guider.prepare

    def keep(self, branches):
        kept.append(prepare(self, branches))
        return kept[-1]

    monkeypatch.setattr(guider, "prepare", keep)
    sampler_of(2).sample(0, None)
    return kept[0]


def test_conditions_follow_their_model_call_to_its_device(pack, conditions):
    guidance = pack("hallo3_core.sampling.guidance")
    branches = (guidance.EVERYTHING, guidance.PORTRAIT)
    conditions.step = 1
    here = conditions.of(branches)
    assert here.to(here.layout.video.device).clip is conditions
    there = here.to("meta")
    assert there.branches == branches and there.step == 1 and there.layout.grid == here.layout.grid
    moved = there.conditions
    tensors = [there.layout.video, there.layout.text, *there.layout.rotary, *there.modulation, moved.text]
    tensors += [x for layers in (moved.reference, moved.face, moved.audio) for layer in layers for x in layer]
    assert len(tensors) > 20 and all(tensor.is_meta for tensor in tensors)
    assert [t.shape for t in there.modulation] == [t.shape for t in here.modulation]
    assert not here.conditions.text.is_meta


def test_they_are_copied_once_a_clip(pack, conditions):
    everything = (pack("hallo3_core.sampling.guidance").EVERYTHING,)
    first, second = (conditions.of(everything).to("meta") for _ in range(2))
    assert first.clip is second.clip and first.conditions is second.conditions


def test_a_condition_batched_by_the_host_can_be_moved(pack, conditions):
    """The host joins conditions first and then moves what has a `to`."""
    guidance, cond = pack("hallo3_core.sampling.guidance"), pack("nodes.host.conditions").BranchCond
    one, two = cond(conditions, (guidance.EVERYTHING,)), cond(conditions, (guidance.PORTRAIT,))
    joined = one.concat([two])
    assert hasattr(joined, "to") and len(joined.to("meta").conditions.text) == 2


def clone_for(patcher, device):
    """Another copy of the weights, as core's node makes it."""
    clone = patcher.deepclone_multigpu(new_load_device=device)
    clone.is_multigpu_base_clone = True
    both = patcher.clone()
    both.set_additional_models("multigpu", [clone])
    both.match_multigpu_clones()
    return both, clone


@pytest.mark.skipif(not REAL, reason="needs ComfyUI's own cloning: COMFYUI_PATH")
def test_the_model_is_cloned_whole(pack, loaded):
    if not hasattr(loaded.model, "deepclone_multigpu"):
        pytest.skip("this ComfyUI knows no MultiGPU CFG Split")
    model = pack("nodes.host.model")
    for clone in (clone_for(loaded.model, SECOND)[1], loaded.model.clone(force_deepcopy=True)):
        own, other = (dict(p.model.diffusion_model.named_parameters()) for p in (loaded.model, clone))
        assert clone.model is not loaded.model and own.keys() == other.keys()
        assert all(torch.equal(own[name], other[name]) and own[name] is not other[name] for name in own)
        assert model.projectors_of(clone) is model.projectors_of(loaded.model)


@pytest.mark.skipif(not REAL, reason="needs ComfyUI's own cloning: COMFYUI_PATH")
def test_a_clip_by_two_devices_is_the_same(pack, loaded, sampler_of, monkeypatch):
    if not hasattr(loaded.model, "deepclone_multigpu"):
        pytest.skip("this ComfyUI knows no MultiGPU CFG Split")
    from dataclasses import replace

    expected = sampler_of(3).sample(0, None)
    both, clone = clone_for(loaded.model, SECOND)
    network, calls = pack("nodes.host.model").HostDenoiser, []
    evaluate = network._call

    def noted(self, x, timesteps, call, options):
        calls.append((x.shape[0], self, call.clip))
        return evaluate(self, x, timesteps, call, options)

    monkeypatch.setattr(network, "_call", noted)
    found = replace(sampler_of(3), patcher=both).sample(0, None)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert len(calls) == 6 and {samples for samples, _, _ in calls} == {1}
    there = [conditions for _, denoiser, conditions in calls if denoiser is clone.model.diffusion_model]
    assert len(there) == 3 and len({id(conditions) for _, _, conditions in calls}) == 2  # the other device's, made once
    assert len(set(map(id, there))) == 1
