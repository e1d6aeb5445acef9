"""Makes a film's clips from a picture and a recording on a fake device, and checks the device of every tensor.

Like a GPU, the fake device rejects operations on tensors of two devices. Steps that need values are left out: face
detection, wav2vec2, and writing the file.
"""

import os
from types import SimpleNamespace

import pytest
import torch

from hallo3_core import animate
from hallo3_core.animate import Progress, clip_maker
from hallo3_core.clips import Timeline
from hallo3_core.pipeline import encoding, networks
from hallo3_core.pipeline.networks import Networks
from hallo3_core.pipeline.options import Options, Settings
from hallo3_core.pipeline.scene import read_scene
from hallo3_core.release.layout import Release
from hallo3_core.sampling.guidance import Guidance, Scales
from tools.testbed.fake_device import NAME, FakeDevice, flash_attention

SIZE = (64, 96)
TWO_STEPS, HALF = dict(settings=Settings(steps=2)), dict(dtype=torch.bfloat16)
FOUR = Settings(steps=2, guidance=Guidance(Scales(2, 3, 4)))
OPTIONS = {
    "half precision, colour held": TWO_STEPS | HALF | dict(color_hold=1.0),
    "streamed, in turn": dict(stream=True, settings=Settings(steps=2, batched=False)),
    "fp8, four model calls": HALF | dict(fp8="weights", settings=FOUR),
    "without noise, with a cache": dict(settings=Settings(steps=6, sampler="dpmpp-2m", cache=0.5)),
}


@pytest.fixture
def clips(tiny_release, portrait, speech, monkeypatch):
    """`clips(**options)` makes a film's first two clips."""

    def found(image, analyser, *args, **named):
        return SimpleNamespace(embedding=torch.empty(512)), torch.empty(image.shape[-2:])

    monkeypatch.setattr(encoding, "embed_face", found)
    monkeypatch.setattr(networks, "choose_attention", lambda *args, **named: flash_attention)

    def make(**choices):
        options = Options(size=SIZE, device=NAME, **choices)
        release = Release(tiny_release)
        scene = read_scene(portrait, speech, "A person.", Networks(release, options).config, options)
        heard = encoding.encode_recording(scene.recording, Networks(release, Options(settings=Settings(steps=1))))
        monkeypatch.setattr(encoding, "encode_recording", lambda *args: heard)
        film = (scene, Timeline(scene.recording.frames), Networks(release, options))
        with FakeDevice() as fake, clip_maker(*film, Progress()) as make:
            first = make(0, None)
            second = make(1, first.motion)
            return first, second, fake.peak

    return make


@pytest.mark.parametrize("options", OPTIONS)
def test_all_is_where_it_is_computed_with(clips, options):
    first, second, peak = clips(**OPTIONS[options])
    height, width = first.frames.shape[1:3]
    assert len(first.frames) == 47 and len(second.frames) == 43
    for clip in (first, second):
        assert clip.frames.dtype == torch.uint8 and clip.motion.shape[-2:] == SIZE
        assert clip.frames.device.type == clip.motion.device.type == "cpu"
    assert height <= SIZE[0] and width <= SIZE[1] and peak > 0


def test_a_film_falls_back_to_the_smallest_modes_there_too(clips, monkeypatch):
    """Memory runs out in the first two sampling modes and in all untiled decoding modes."""
    full = torch.OutOfMemoryError("CUDA out of memory.")
    sample, calls = animate.sample_clip, []

    def sampled(evaluate, *args):
        calls.append(type(evaluate._denoiser.blocks).__name__)
        if len(calls) < 3:
            raise full
        return sample(evaluate, *args)

    def whole(vae, latent):
        calls.append("whole")
        raise full

    monkeypatch.setattr(animate, "sample_clip", sampled)
    monkeypatch.setattr("hallo3_core.pipeline.decoding_fallbacks.decode_whole", whole)
    first, second, _ = clips(**TWO_STEPS)
    assert calls == ["ModuleList", "ModuleList", "StreamedBlocks", "whole", "whole", "whole", "StreamedBlocks"]
    assert (len(first.frames), len(second.frames)) == (47, 43)


def test_a_process_that_had_the_device_can_still_fork_training():
    """torch refuses backward passes in a fork of a process in which autograd has started threads for devices."""

    def backward() -> None:
        torch.ones(3, requires_grad=True).sum().backward()

    with FakeDevice(), torch.inference_mode():
        torch.ones(1)
    backward()
    child = os.fork()
    if child == 0:
        try:
            backward()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
