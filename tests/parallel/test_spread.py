"""A film over several processes is one process's film to rounding, and one failure ends all with one word."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest
import torch

from hallo3_core.errors import InputError
from hallo3_core.inputs.image import plan_framing
from hallo3_core.inputs.portrait import Portrait
from hallo3_core.model.attention import attend_here
from hallo3_core.model.config import Grid
from hallo3_core.model.denoiser import Conditions
from hallo3_core.parallel.groups import Group, shares
from hallo3_core.parallel.sequence import SequenceDenoiser, from_strip, to_strip
from hallo3_core.parallel.spread import follow, lead_run
from hallo3_core.parallel.team import backend_of, branch_groups, join, take_gpu
from hallo3_core.pipeline.clip import sample_clip
from hallo3_core.pipeline.conditions import ClipCalls, prepare_run
from hallo3_core.pipeline.options import Settings
from hallo3_core.sampling.guidance import Guidance, Scales
from hallo3_core.sampling.noise import SeededNoise
from hallo3_core.toy import noise_release as tiny
from hallo3_core.weights import names
from hallo3_core.weights.parts import load, sort_official
from tests.noise import noise

pytestmark = pytest.mark.usefixtures("no_gradients")

# 6 heads, 3 x 5 tokens a frame, 9 of text: 4 processes share none of them evenly, 2 two of them not
CONFIG = type(tiny.CONFIG)(
    **{**vars(tiny.CONFIG), "hidden": 96, "heads": 6, "layers": 2, "text_tokens": 9, "grid": Grid(13, 3, 5)}
)
TWO, FOUR = Scales(), Scales(2.0, 3.0, 4.0)


@pytest.fixture(scope="module")
def denoiser():
    return load(sort_official(tiny.file_tensors(3, CONFIG)), names.DENOISER, dtype=torch.float32)


def bank(seed=0):
    return [noise(1, CONFIG.grid.tokens_per_frame, CONFIG.hidden, seed=seed + i) for i in range(CONFIG.layers)]


def side_by_side(work):
    """Run work(group) in every process alike, none of them leading."""
    with join() as meet:
        team = meet("cpu", 1)
        result = work(team.strips)
        if not team.leads:
            assert team.receive() is None
        return result


def velocity(denoiser, seed=0):
    x = noise(2, 16, 13, 6, 10, seed=99)
    layout = denoiser.layout(CONFIG.grid, torch.float32)
    conditions = Conditions(
        text=denoiser.embed_text(noise(2, CONFIG.text_tokens, CONFIG.text_width, seed=seed + 10)),
        reference=denoiser.reference_keys_values(bank(seed)),
        face=denoiser.face_keys_values(noise(1, 4, CONFIG.face, seed=seed + 11)),
        audio=denoiser.audio_keys_values(noise(2, 13, 4, CONFIG.audio, seed=seed + 12)),
    )
    return denoiser(x, x[:1], conditions, denoiser.modulate_steps(torch.tensor([500.0]), torch.float32), layout)


def portrait(null=True):
    return Portrait(noise(1, 3, 48, 80), plan_framing(48, 80, 48, 80), bank(), bank(50) if null else None)


def inputs():
    return dict(
        text=noise(1, CONFIG.text_tokens, CONFIG.text_width, seed=1),
        face_tokens=noise(1, 4, CONFIG.face, seed=2),
        null_audio_tokens=noise(1, 13, 4, CONFIG.audio, seed=3),
    )


def clip(run, begin_clip):
    concat, audio = noise(1, 16, 13, 6, 10, seed=4), noise(1, 13, 4, CONFIG.audio, seed=5)
    return sample_clip(begin_clip(concat, audio), run.settings, concat, SeededNoise(0, 0))


# Equal to one process


@pytest.mark.parametrize("size", [2, 3, 4])
def test_strips_of_a_picture_make_the_whole_velocity(together, denoiser, size):
    whole = velocity(denoiser)
    for strips in together(size, lambda: side_by_side(lambda group: velocity(SequenceDenoiser(denoiser, group)))):
        assert torch.allclose(strips, whole, atol=2e-5)


@pytest.mark.parametrize(
    ("size", "scales", "batched"),
    [
        (2, TWO, True),
        (3, TWO, False),
        (4, TWO, True),
        (4, TWO, False),
        (2, FOUR, True),
        (2, FOUR, False),
        (4, FOUR, True),
    ],
)
def test_a_clip_over_several_processes_is_that_of_one(together, denoiser, size, scales, batched):
    settings = Settings(steps=3, guidance=Guidance(scales, stop=0.7), batched=batched)  # the last step: one branch

    def work():
        with join() as meet:
            team = meet("cpu", len(settings.branches()))
            if not team.leads:
                return follow(team, denoiser)
            return clip(*lead_run(team, denoiser, portrait(), settings, **inputs()))

    run = prepare_run(denoiser, portrait(), settings, **inputs())
    alone = clip(run, partial(ClipCalls, denoiser, run))
    first, *others = together(size, work)
    assert torch.allclose(first, alone, atol=2e-5) and others == [None] * (size - 1)


def test_a_film_over_two_processes_is_that_of_one(together, tiny_release, speech):
    """Two clips, frame by frame before they are encoded."""
    from pathlib import Path

    from hallo3_core.animate import Progress, assist, clip_maker
    from hallo3_core.clips import Timeline
    from hallo3_core.film.clip_chain import clip_chain
    from hallo3_core.pipeline.networks import Networks
    from hallo3_core.pipeline.options import Options
    from hallo3_core.pipeline.scene import read_scene
    from hallo3_core.release.layout import Release

    image = Path(__file__).parents[2] / "assets" / "portrait.jpg"
    release, options = Release(tiny_release), Options(Settings(steps=2), size=(16, 32))

    def frames(team=None):
        networks = Networks(release, options)
        scene = read_scene(image, speech, "A person talks.", networks.config, options)
        timeline = Timeline(scene.recording.frames)
        with clip_maker(scene, timeline, networks, Progress(), team) as make:
            return torch.cat(list(clip_chain(timeline.clips, make)))

    def work():
        with join() as meet:
            team = meet("cpu", 2)
            return frames(team) if team.leads else assist(team, release, options)

    alone, (first, _) = frames(), together(2, work)
    assert alone.shape == first.shape == (90, 16, 32, 3)
    assert (alone.int() - first.int()).abs().max() <= 1


# What it costs


def test_only_self_attention_and_the_result_are_exchanged(together, denoiser):
    def work(group):
        sizes, exchange = [], group.exchange
        group.exchange = lambda parcels, shapes: (
            sizes.append([sum(t.numel() for t in parcel) for parcel in parcels]) or exchange(parcels, shapes)
        )
        velocity(SequenceDenoiser(denoiser, group))
        return sizes

    sizes = together(2, lambda: side_by_side(work))
    videos, tokens, head, batch = [13 * 8, 13 * 7], [13 * 8 + 5, 13 * 7 + 4], 16, 2
    for rank, found in enumerate(sizes):

        def layer(queries, rank=rank):
            to_heads = [batch * 3 * (queries[rank] + 2 * tokens[rank]) * head] * 2
            return [to_heads, [batch * 3 * n * head for n in queries]]

        result = [batch * 16 * 13 * 4 * (8, 7)[rank]] * 2
        # in the last layer the text asks for nothing
        assert found == layer(tokens) * (CONFIG.layers - 1) + layer(videos) + [result]


def test_a_strip_that_is_the_whole_picture_is_exchanged_with_nobody(together, denoiser):
    """As when each of two GPUs computes one branch."""

    def attention():
        grid = CONFIG.grid
        return side_by_side(
            lambda group: SequenceDenoiser(denoiser, Group([0])).joint_attention(grid.frames, grid.tokens_per_frame)
        )

    (alone,) = together(1, lambda: attention() is attend_here)
    assert alone


def test_a_process_keeps_the_portrait_for_its_own_heads(together, denoiser):
    def work(group):
        return SequenceDenoiser(denoiser, group).reference_keys_values(bank())

    whole = denoiser.reference_keys_values(bank())
    for i, layers in enumerate(zip(*together(4, lambda: side_by_side(work)), strict=True)):
        assert [layer.keys.shape[1] for layer in layers] == [2, 2, 1, 1]
        assert torch.equal(torch.cat([layer.keys for layer in layers], 1), whole[i].keys)
        assert torch.equal(torch.cat([layer.values for layer in layers], 1), whole[i].values)


def test_a_strip_and_back():
    latent = noise(2, 16, 3, 6, 10)
    strip = to_strip(latent, 2)
    assert strip.shape == (2, 16, 3, 2, 30)
    assert torch.equal(from_strip(strip, 6, 10, 2), latent)
    assert torch.equal(strip[..., 12:14], latent[..., 2:4, 2:4])  # token 6 is the second of the second row


def test_shares_are_even_and_whole():
    for count in range(20):
        for parts in range(1, 6):
            sizes = shares(count, parts)
            assert sum(sizes) == count and len(sizes) == parts and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("processes", "branches", "groups"), [(2, 2, 2), (4, 2, 2), (3, 2, 1), (4, 4, 4), (8, 4, 4), (6, 4, 2), (4, 1, 1)]
)
def test_branches_come_apart_first(processes, branches, groups):
    assert branch_groups(processes, branches) == groups


# One failure ends all, with one word


def test_a_mistake_gets_one_line_from_all(together, tiny_release, tmp_path, short_speech):
    from hallo3_core.cli.main import main

    words = ["animate", "--audio", str(short_speech), "--prompt", "x", "--models", str(tiny_release), "--device", "cpu"]
    words += ["--output", str(tmp_path / "film.mp4")]
    for more in (["--image", str(tmp_path / "none.png")], ["--image", "x.png", "--steps", "0"], []):
        codes = together(3, lambda more=more: main(words + more))
        errors = [line for e in tmp_path.glob("*.err") for line in e.read_text().splitlines() if "error" in line]
        assert len(errors) == 1, errors
        assert all(code == 2 or isinstance(code, SystemExit) for code in codes)


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_a_failure_anywhere_ends_all(together, denoiser, failing, monkeypatch):
    whole = ClipCalls.__call__

    def evaluate(self, x, step, branches):
        if step == 1 and os.environ["RANK"] == str(failing):
            raise ValueError("no room")
        return whole(self, x, step, branches)

    monkeypatch.setattr(ClipCalls, "__call__", evaluate)
    results = together(4, lambda: film_of_noise(denoiser))
    assert isinstance(results.pop(failing), ValueError)
    assert [error.code for error in results] == [1] * 3  # silent


def test_memory_that_runs_out_anywhere_gets_a_line(together, denoiser, monkeypatch):
    def evaluate(self, x, step, branches):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much.")

    follow_only = ClipCalls.__call__
    monkeypatch.setattr(
        ClipCalls,
        "__call__",
        lambda self, *args: (evaluate if os.environ["RANK"] == "1" else follow_only)(self, *args),
    )
    results = together(2, lambda: film_of_noise(denoiser))
    assert isinstance(results[0], SystemExit)
    assert "process 1 of 2: out of memory (CUDA out of memory. Tried to allocate much.)" in str(results[1])


def test_a_process_that_is_killed_ends_all(together, denoiser, monkeypatch):
    whole = ClipCalls.__call__

    def evaluate(self, x, step, branches):
        if step == 1 and os.environ["RANK"] == "2":
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, x, step, branches)

    monkeypatch.setattr(ClipCalls, "__call__", evaluate)
    results = together(4, lambda: film_of_noise(denoiser))
    assert results.pop(2) == -signal.SIGKILL
    errors = [error for error in results if isinstance(error, InputError)]
    assert len(errors) == 1 and "ended without a message" in str(errors[0])
    assert sum(isinstance(error, SystemExit) and error.code == 1 for error in results) == 2


def film_of_noise(denoiser):
    settings = Settings(steps=3)
    with join() as meet:
        team = meet("cpu", 2)
        if not team.leads:
            return follow(team, denoiser)
        return clip(*lead_run(team, denoiser, portrait(), settings, **inputs()))


def test_more_processes_than_heads_are_refused(together, denoiser):
    def work(group):
        return SequenceDenoiser(denoiser, group).layout(Grid(13, 1, 2), torch.float32)

    results = together(3, lambda: side_by_side(work))
    errors = [error for error in results if isinstance(error, InputError)]
    assert len(errors) == 1 and "3 GPUs share 2 tokens in a frame: use 2 GPUs or fewer" in str(errors[0])


@pytest.mark.parametrize("device", ["mps", "cuda:1", "cuda"])
def test_a_device_that_a_film_cannot_be_shared_on_is_refused(device, monkeypatch):
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: False)
    with pytest.raises(InputError, match="NCCL" if device == "cuda" else f"--device {device}"):
        backend_of(device)


def test_each_process_takes_its_own_gpu(monkeypatch):
    taken = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    take_gpu("auto")  # not torchrun's
    for local in "01":
        monkeypatch.setenv("LOCAL_RANK", local)
        take_gpu("auto")
        take_gpu("cpu")
    assert taken == [0, 1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="process 3 of this machine has no GPU: torch sees 2"):
        take_gpu("cuda")


def test_one_process_alone_needs_no_others():
    with join() as meet:
        assert meet("cpu", 2) is None


def test_groups_are_imported_nowhere_in_the_network():
    """The network knows nothing of other processes."""
    from pathlib import Path

    folder = Path(__file__).parents[2] / "hallo3_core" / "model"
    assert not [f.name for f in folder.glob("*.py") if "distributed" in f.read_text() or "parallel." in f.read_text()]
    assert Group.__module__ == "hallo3_core.parallel.groups"
