"""What conditions do to a film of the learnt toy, on held-out people; and that faults planted in the core are caught.

The thresholds are this toy's, below what its weights reach on these very films; they say nothing of released weights.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hallo3_core.clips import FRAMES_PER_CLIP
from hallo3_core.inputs import audio
from hallo3_core.release.layout import Release
from hallo3_core.sampling.guidance import Guidance
from hallo3_core.toy.learnt_release import write_toy_release
from hallo3_core.toy.packed import BYTES, is_packed
from tests.toy.probe import FRAMES, START, Probe
from tools.toy_films.films import PLAIN, Changes, Studio, Subject, asked
from tools.toy_films.reading import read_film

pytestmark = pytest.mark.skipif(not is_packed(), reason="the learnt toy's weights are not in this package")
PERSON = 0
NOISE, THIRD = 0, 4  # steps of 12: pure noise, and a third of the way


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_toy_release(tmp_path_factory.mktemp("learnt") / "toy")


def test_it_takes_the_room_that_messages_promise(release):
    written = sum(path.stat().st_size for path in release.rglob("*") if path.is_file())
    assert abs(written / BYTES - 1) < 0.05


@pytest.fixture(scope="module")
def studio(release):
    return Studio(Release(release))


@pytest.fixture(scope="module")
def read(studio, release):
    """A film of a subject, as it is read."""
    return lambda subject: read_film(studio.film(subject, Changes(settings=PLAIN)), subject, release)


@pytest.fixture(scope="module")
def probes(studio):
    return [Probe(studio.networks(Changes(settings=PLAIN)), n) for n in range(2)]


def mean_loss(probes, *, step=THIRD, heard=lambda probe: probe.frames_heard(), motion=lambda probe: None) -> float:
    return float(np.mean([probe.loss(step, heard(probe), motion(probe)) for probe in probes]))


@pytest.fixture(scope="module")
def right(probes):
    return mean_loss(probes)


def test_who_is_in_the_portrait_stays_and_only_the_background_moves_when_the_prompt_says_so(read):
    still, moving = (read(asked(PERSON, moves)) for moves in (False, True))
    assert moving["background_motion"] > 5 * still["background_motion"]
    for film in (still, moving):
        assert film["readable"] and film["nearest"] and film["likeness"] > 0.8
        assert film["hair"] < 0.1 and film["clothes"] < 0.1


@pytest.mark.parametrize("person", [1, 2])
def test_the_mouth_follows_the_voice(read, person):
    film = read(Subject(person))
    assert film["sync"] > 0.86 and film["lag"] == 0


def test_the_mouth_follows_the_voice_at_the_default_scales(studio, release):
    changes = Changes(settings=replace(PLAIN, guidance=Guidance()))
    film = read_film(studio.film(Subject(1), changes), Subject(1), release)
    assert film["sync"] > 0.86 and film["lag"] == 0


def test_without_the_concat_latent_the_reference_network_says_who_it_is(studio, release):
    def likeness(scale: float, null_reference: bool = False) -> float:
        guidance = Guidance(PLAIN.guidance.scales._replace(reference=scale))
        changes = Changes(settings=replace(PLAIN, guidance=guidance), null_concat=True, null_reference=null_reference)
        return read_film(studio.film(Subject(3), changes), Subject(3), release)["likeness"]

    plain = likeness(1.0)
    assert plain > 0.25 + likeness(1.0, null_reference=True)
    assert likeness(0.0) + 0.25 < plain < likeness(2.0)


def test_the_mouth_moves_more_with_the_audio_scale(studio, release):
    def motion(scale: float) -> float:
        scales = PLAIN.guidance.scales._replace(audio=scale)
        changes = Changes(settings=replace(PLAIN, guidance=Guidance(scales)))
        return read_film(studio.film(Subject(2), changes), Subject(2), release)["mouth_motion"]

    assert motion(1.0) < motion(2.0) < motion(3.5)


def test_silence_closes_the_mouth(read):
    assert read(Subject(PERSON, silence=True))["open_late"] < 0.05


def test_another_voice_moves_the_mouth_by_its_own_track(read):
    film = read(Subject(PERSON, voice=PERSON + 50))
    assert film["sync"] > 0.8 and film["sync_own"] < 0.25


def test_shuffled_audio_windows_are_caught(probes, right):
    order = torch.randperm(FRAMES_PER_CLIP, generator=torch.Generator().manual_seed(0))
    assert mean_loss(probes, heard=lambda probe: probe.frames_heard()[order]) > right


@pytest.mark.parametrize("late", [-4, -2, 2, 4])
def test_sound_that_is_some_frames_off_is_caught(probes, late):
    right = mean_loss(probes, step=NOISE)
    assert mean_loss(probes, step=NOISE, heard=lambda probe: probe.frames_heard() + late) > right


def test_sound_of_another_part_of_the_film_is_caught(probes, right):
    assert mean_loss(probes, heard=lambda probe: probe.frames_heard() + FRAMES - START - FRAMES_PER_CLIP) > right


@pytest.mark.parametrize("late", [-1, 1])
def test_clips_that_are_cut_one_frame_off_are_caught(read, monkeypatch, late):
    """By the mouth's lag behind the voice, which a frame hardly shows in the loss."""
    right = audio.clip_windows
    monkeypatch.setattr(audio, "clip_windows", lambda hidden, *rest: right(hidden.roll(late, dims=0), *rest))
    assert read(Subject(1))["lag"] == late


def test_wrong_motion_frames_are_caught(probes, right):
    def last(probe):
        frames = np.ascontiguousarray(probe.film.frames[-2:])
        return torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1

    assert mean_loss(probes, motion=last) > 1.02 * right


@pytest.mark.parametrize("norm", ["query_norm", "key_norm"])
def test_a_dropped_norm_of_queries_or_keys_is_caught(probes, right, studio, norm):
    with studio.networks(Changes(settings=PLAIN)).denoiser() as denoiser:
        kept = [getattr(block, norm) for block in denoiser.blocks]
        for block in denoiser.blocks:
            setattr(block, norm, nn.Identity())
        try:
            assert mean_loss(probes) > 1.02 * right
        finally:
            for block, own in zip(denoiser.blocks, kept, strict=True):
                setattr(block, norm, own)


def test_a_lost_reference_or_prompt_is_caught(probes, right):
    """Each leaves the loss higher on films that it belongs to."""
    for name in ("portrait", "text"):
        others = [getattr(probes[1 - n], name) for n in range(2)]
        own = [getattr(probe, name) for probe in probes]
        for probe, other in zip(probes, others, strict=True):
            setattr(probe, name, other)
        try:
            assert mean_loss(probes) > right, name
        finally:
            for probe, value in zip(probes, own, strict=True):
                setattr(probe, name, value)
