"""Fingerprints are equal exactly for equal inputs, and differences are described in plain words."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hallo3_core.film.fingerprint import (
    MODEL_FILE,
    SAME_FILM,
    about,
    differences,
    digest,
    file_identity,
    flat,
    versions,
)
from hallo3_core.pipeline.networks import Networks
from hallo3_core.pipeline.options import Options, Settings
from hallo3_core.pipeline.scene import film_inputs, read_scene
from hallo3_core.release.layout import Release
from hallo3_core.sampling.guidance import Guidance, Scales


@pytest.mark.parametrize("change", ["value", "shape", "dtype"])
def test_a_digest_distinguishes_tensors(change):
    tensor = torch.arange(12.0).view(3, 4)
    other = {"value": tensor + (tensor == 5) * 1e-6, "shape": tensor.view(4, 3), "dtype": tensor.to(torch.float64)}
    assert digest(tensor) == digest(tensor.clone()) == digest(tensor.T.contiguous().T)
    assert digest(tensor) != digest(other[change])
    assert digest(tensor.bfloat16()) == digest(tensor.bfloat16())


def test_a_file_is_recognised_by_size_time_and_both_ends(tmp_path):
    path = tmp_path / "weights"
    content = bytearray(os.urandom(200_000))
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    first = file_identity(path)
    assert first == file_identity(path)
    for place in (0, 65_535, 134_464, 199_999):
        changed = content.copy()
        changed[place] ^= 1
        path.write_bytes(changed)
        os.utime(path, ns=(1, 1))
        assert file_identity(path) != first
    path.write_bytes(content)
    assert file_identity(path) != first  # another modification time
    assert file_identity(tmp_path / "none") == "missing"


@given(st.integers(0, 100))
def test_rounding_does_not_count_as_a_difference_and_another_input_does(seed):
    draw = torch.Generator().manual_seed(seed)
    tensor = torch.randn(40, 30, generator=draw)
    before, other = about(tensor), torch.randn(40, 30, generator=draw)
    assert not differences({"text": before}, {"text": about(tensor + 1e-3 * other)})
    assert differences({"text": before}, {"text": about(other)}) == "text changed"
    assert differences({"text": before}, {"text": about(tensor.view(30, 40))}) == "text changed"
    assert differences({"text": before}, {"text": about(tensor, tensor)}) == "text changed"


def test_differences_are_in_words():
    before = {"seed": "1", "portrait": "a" * 64, "old": "x"}
    now = {"seed": "2", "portrait": "b" * 64, "new": "y"}
    assert differences(before, now) == "seed was 1, is 2; portrait changed; new is new; old is gone"
    assert not differences(before, dict(before))


def test_fields_that_say_how_are_left_out():
    @dataclass
    class Inner:
        deep_value: int = 1

    @dataclass
    class Outer:
        inner: Inner = field(default_factory=Inner)
        how: int = field(default=0, metadata=SAME_FILM)

    assert flat(Outer()) == flat(Outer(how=5)) == {"deep value": "1"}


def test_the_versions_of_what_computes_are_there():
    assert versions()["version of torch"] == torch.__version__.split("+")[0] or "+" in torch.__version__
    assert "version of hallo3" in versions()


@pytest.fixture(scope="module")
def scene(tiny_release, portrait, short_speech):
    config = Networks(Release(tiny_release), Options()).config
    return read_scene(portrait, short_speech, "A person.", config, Options())


CHANGES = {
    "a step more": dict(settings=Settings(steps=51)),
    "a scale": dict(settings=Settings(guidance=Guidance(Scales(1, 3, 3)))),
    "a part that is guided": dict(settings=Settings(guidance=Guidance(stop=0.5))),
    "the sampler": dict(settings=Settings(sampler="ddim")),
    "the seed": dict(seed=1),
    "the dtype": dict(dtype=torch.bfloat16),
    "a LoRA": dict(loras=((Path(__file__), 1.0),)),
    "the face": dict(face="whole"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_option_counts(tiny_release, scene, change):
    release = Release(tiny_release)
    before = film_inputs(scene, release, Options())
    assert differences(before, film_inputs(scene, release, Options(**CHANGES[change])))


def test_how_it_is_computed_does_not_count(tiny_release, scene):
    release = Release(tiny_release)
    before = film_inputs(scene, release, Options(device="cuda:0"))
    now = film_inputs(scene, release, Options(device="cuda:1", settings=Settings(batched=False)))
    assert not differences(before, now)
    assert differences(before, film_inputs(scene, release, Options(device="cpu"))) == "device was cuda, is cpu"


@pytest.mark.parametrize("part", ["picture", "recording", "prompt", "framing"])
def test_every_part_of_a_scene_counts(tiny_release, scene, part):
    release = Release(tiny_release)
    other = {
        "picture": scene.picture + 1e-3,
        "recording": replace(scene.recording, waveform=scene.recording.waveform * 0.999),
        "prompt": "A person!",
        "framing": replace(scene.framing, mode="crop"),
    }
    before = film_inputs(scene, release, Options())
    assert differences(before, film_inputs(replace(scene, **{part: other[part]}), release, Options()))


def test_every_file_of_a_release_counts(tiny_release, scene):
    named = film_inputs(scene, Release(tiny_release), Options())
    files = {path.relative_to(tiny_release).as_posix() for path in tiny_release.rglob("*") if path.is_file()}
    files -= {"TOY_WEIGHTS.txt", "hallo3/latest"}
    assert {MODEL_FILE + name for name in files} <= named.keys()


def test_other_files_of_weights_are_followed_by_a_hint():
    before, now = {"model file hallo3/1/a.pt": "1 2 3"}, {"model file hallo3_denoiser.safetensors": "4 5 6"}
    found = differences(before | {"seed": "1"}, now | {"seed": "1"})
    assert "hallo3_denoiser.safetensors is new; model file hallo3/1/a.pt is gone. Weights are compared by file" in found
    assert "Weights" not in differences({"seed": "1"}, {"seed": "2"})
