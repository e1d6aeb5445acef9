"""Whole films: the core's film, the film that is chained by hand, and what Cancel leaves."""

from __future__ import annotations

import importlib
import math
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.nodes.conftest import SETTINGS
from tools.testbed.exact_film import film_clips


@pytest.fixture
def written(pack, monkeypatch):
    """What the film's writer received, clip by clip."""
    writer, clips = pack("nodes.host.film").FilmWriter, []
    original = writer.write
    monkeypatch.setattr(writer, "write", lambda self, frames: clips.append(frames) or original(self, frames))
    return clips


def temp_films() -> set[Path]:
    """Everything in the host's temp folder, hidden files too."""
    folder = Path(importlib.import_module("folder_paths").get_temp_directory())
    return set(folder.iterdir()) if folder.is_dir() else set()


def core_film(pack, models, scene, seed=11) -> torch.Tensor:
    """The film of the core without any host, ``t 3 H W``."""
    release = pack("hallo3_core.release.layout").Release(models / "hallo3" / "tiny")
    places = ("sampling.noise", "inputs.audio")
    noise, audio = (pack(f"hallo3_core.{place}") for place in places)
    denoiser, vae = release.network("denoiser", dtype=torch.float32), release.vae(dtype=torch.float32)
    project = release.network("audio_projector", dtype=torch.float32)
    windows = [audio.clip_audio(scene.audio, clip)[None] for clip in range(scene.audio.clips)]
    run = pack("hallo3_core.pipeline.conditions").prepare_run(
        denoiser,
        scene.reference,
        pack("hallo3_core.pipeline.options").Settings(steps=SETTINGS["steps"]),
        text=scene.text[0][0],
        face_tokens=release.network("face_projector", dtype=torch.float32)(scene.face.embedding[None]),
        null_audio_tokens=project(torch.zeros_like(windows[0])),
    )
    clips = film_clips(
        denoiser,
        vae,
        run,
        scene.reference,
        scene.audio.frames,
        lambda clip: project(windows[clip]),
        lambda clip: noise.SeededNoise(seed, clip),
    )
    return torch.cat(list(clips))


def test_the_film_is_the_cores(pack, models, scene, film, written):
    """The frames are those that the command line writes: rounding may move a value to the next of 256 levels."""
    path = film()
    expected = pack("hallo3_core.inputs.image").to_uint8(core_film(pack, models, scene))
    found = torch.cat(written)
    assert (found.int() - expected.int()).abs().max() <= 1

    frames, rate, sound = pack("hallo3_core.film.writer").read_film(path)
    assert frames.shape == expected.shape and rate == 25
    assert abs(sound.seconds - len(frames) / 25) < 0.1
    distances = torch.cdist(frames.flatten(1).float(), found.flatten(1).float())
    assert torch.equal(distances.argmin(dim=1), torch.arange(len(found)))  # each picture in its place


@pytest.mark.parametrize(("strength", "fade"), [(0.0, 0), (0.7, 0), (0.7, 5)])
def test_a_chain_of_nodes_gives_the_same_film(pack, loaded, scene, film, written, strength, fade):
    chaining, clip_node = pack("nodes.chaining"), pack("nodes.sampling").Hallo3SampleClip()
    film(color_hold=strength, seam_fade=fade)
    whole = motion = None
    for clip in range(scene.audio.clips):
        latent = clip_node.execute(
            model=loaded.model, vae=loaded.vae, clip_index=clip, seed=11, motion=motion, **vars(scene), **SETTINGS
        )[0]
        frames = loaded.vae.decode(latent["samples"]).flatten(0, 1)
        frames = chaining.Hallo3ColorMatch().execute(frames, scene.reference, strength)[0]
        motion = chaining.Hallo3MotionFrames().execute(frames, 2)[0]
        append = chaining.Hallo3AppendClip()
        whole = append.execute(frames, scene.audio, clip, whole, scene.reference, seam_fade=fade)[0]
    assert torch.equal(torch.cat(written), pack("hallo3_core.inputs.image").to_uint8(whole.movedim(-1, 1)))


def test_bars_of_a_padded_portrait_are_not_in_the_film(pack, scene, film):
    plan = pack("hallo3_core.inputs.image").plan_framing(60, 60, 16, 32)
    path = film(reference=replace(scene.reference, framing=plan))
    frames = pack("hallo3_core.film.writer").read_film(path)[0]
    assert frames.shape == (scene.audio.frames, *plan.keep[2:], 3) and plan.keep[3] < 32


def test_each_clip_is_written_and_freed_before_the_next_is_sampled(pack, film, monkeypatch):
    host, sampler = pack("nodes.host.film"), pack("nodes.host.sampling").ClipSampler
    events, decoded = [], []
    sample, write, decode = sampler.sample, host.FilmWriter.write, host.decode

    def sampling(self, clip, *rest):
        events.append("sample")
        assert not [clip for clip in decoded if clip() is not None]
        return sample(self, clip, *rest)

    def decoding(*args):
        frames = decode(*args)
        decoded.append(weakref.ref(frames))
        return frames

    monkeypatch.setattr(sampler, "sample", sampling)
    monkeypatch.setattr(host, "decode", decoding)
    monkeypatch.setattr(host.FilmWriter, "write", lambda self, clip: events.append("write") or write(self, clip))
    film()
    assert events == ["sample", "write"] * 2


def test_cancel_in_the_second_clip_leaves_no_file_and_the_next_run_works(film, press_cancel):
    before = temp_films()
    with pytest.raises(press_cancel(3)):
        film()
    assert temp_films() == before
    assert temp_films() - {film()} == before


def test_a_film_whose_file_was_deleted_is_made_again(pack, loaded, scene):
    """The host runs a node again when what IS_CHANGED gives is another value than before."""
    node = pack("nodes.film").Hallo3LongVideo
    inputs = dict(model=loaded.model, vae=loaded.vae, seed=11, node_id="31", **vars(scene), **SETTINGS)
    before = node.IS_CHANGED(seed=11, node_id="31")
    video = node().execute(**inputs)[0]
    assert node.IS_CHANGED(seed=11, node_id="31") == before
    Path(video.get_stream_source()).unlink()
    assert node.IS_CHANGED(node_id="32") == before  # another node's is there
    after = node.IS_CHANGED(node_id="31")
    assert after != before and node.IS_CHANGED(node_id="31") == after
    again = node().execute(**inputs)[0]
    assert node.IS_CHANGED(node_id="31") == after
    del again  # the host let go of it: its file may go too
    assert node.IS_CHANGED(node_id="31") == after


def test_two_films_do_not_share_a_file(film):
    first, second = film(), film()
    assert first != second and first.read_bytes() == second.read_bytes()


def test_the_node_shows_clips_and_cost(pack, film, monkeypatch):
    progress, texts = pack("nodes.host.progress"), []
    monkeypatch.setattr(progress, "show_text", lambda text, node_id: texts.append(text))
    film(node_id="5")
    assert texts[2].startswith("clip 1 of 2, decoding, ")
    assert texts[3].startswith("clip 2 of 2, step 1 of 2, ")
    assert texts[-1] == "3.00 s, 75 frames of 32x16, 2 clips: 2 model calls a step, 8 in all"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(color_hold=math.nan), "color_hold is nan"),
        (dict(color_hold=1.5), "color_hold is 1.5"),
        (dict(seam_fade=25), "seam_fade is 25: choose a whole number from 0 to 24"),
        (dict(audio_cfg=math.nan), "audio_cfg is nan"),
        (dict(seed=-1), "seed is -1"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_is_sampled(pack, film, monkeypatch, changes, words):
    monkeypatch.setattr(pack("nodes.host.sampling").ClipSampler, "sample", lambda *args: pytest.fail("sampled"))
    before = temp_films()
    with pytest.raises(pack("hallo3_core.errors").InputError, match=words):
        film(**changes)
    assert temp_films() == before


# The guidance grid ----------------------------------------------------------------------------------------------


@pytest.fixture
def grid(pack, loaded, scene):
    """Run the node Hallo3GuidanceGrid; its sheets, ``n H W 3``."""
    node = pack("nodes.grid").Hallo3GuidanceGrid
    lists = dict(audio_cfgs="1, 3.5", text_cfgs="3.5", reference_cfgs="1", frames="24")

    def run(**changes) -> torch.Tensor:
        inputs = dict(model=loaded.model, vae=loaded.vae, clip_index=0, seed=11, **vars(scene), **lists)
        return node().execute(**{**inputs, "steps": 2, "sampler": "sde-dpmpp-2m", **changes})[0]

    return run


@pytest.fixture
def cells(pack, monkeypatch):
    """The pictures on the sheets, with their labels: (title, row, column) -> picture."""
    module, found = pack("nodes.grid"), {}
    original = module.contact_sheet

    def listening(pictures, rows, columns, title):
        found.update({(title, r, c): pictures[j][i] for j, r in enumerate(rows) for i, c in enumerate(columns)})
        return original(pictures, rows, columns, title)

    monkeypatch.setattr(module, "contact_sheet", listening)
    return found


def test_a_cell_is_the_clip_with_its_scales(pack, loaded, scene, grid, cells):
    sheets = grid(audio_cfgs="1, 3.5", text_cfgs="3.5, 2", reference_cfgs="1, 1.5", frames="7, 48")
    assert len(sheets) == 2 and len(cells) == 8
    assert 0 <= sheets.min() and sheets.max() <= 1
    for audio, text, reference in [(1, 3.5, 1), (3.5, 2, 1.5)]:
        scales = dict(audio_cfg=audio, text_cfg=text, reference_cfg=reference)
        latent = (
            pack("nodes.sampling")
            .Hallo3SampleClip()
            .execute(
                model=loaded.model, vae=loaded.vae, clip_index=0, seed=11, **vars(scene), **{**SETTINGS, **scales}
            )[0]
        )
        frames = loaded.vae.decode(latent["samples"])[0].movedim(-1, 1)
        expected = torch.cat((frames[7], frames[48]), dim=-1)
        assert torch.equal(cells[f"reference {reference:g}", f"audio {audio:g}", f"text {text:g}"], expected)


def test_what_the_cells_share_is_prepared_once(pack, grid, monkeypatch):
    """What the clip is made of, and the keys and values of all branches that any cell computes."""
    sampler, guider = pack("nodes.host.sampling").ClipSampler, pack("nodes.host.guider")
    calls, inputs, prepare = [], sampler.inputs, guider.prepare_film
    monkeypatch.setattr(sampler, "inputs", lambda *args: calls.append("inputs") or inputs(*args))
    monkeypatch.setattr(guider, "prepare_film", lambda *args: calls.append("conditions") or prepare(*args))
    grid()
    assert calls == ["inputs", "conditions"]


def test_the_grid_counts_cells_and_model_calls(pack, grid, monkeypatch):
    progress, texts = pack("nodes.host.progress"), []
    monkeypatch.setattr(progress, "show_text", lambda text, node_id: texts.append(text))
    grid(audio_cfgs="1, 3.5, 1", text_cfgs="1")
    assert texts[2].startswith("cell 2 of 2, step 1 of 2")
    assert texts[4].startswith("cell 1 of 2, decoding")
    assert texts[-1] == "2 cells, 8 model calls"  # 1 and 3 a step


def test_a_cancelled_grid_runs_again(grid, press_cancel):
    before = grid()
    with pytest.raises(press_cancel(3)):
        grid()
    assert torch.equal(grid(), before)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            dict(audio_cfgs="1, three"),
            "audio_cfgs is '1, three': 'three' is not allowed, expected numbers from 0 to 20",
        ),
        (dict(text_cfgs=""), "text_cfgs is '': '' is not allowed"),
        (dict(text_cfgs="1,,2"), "text_cfgs is '1,,2': '' is not allowed"),
        (dict(reference_cfgs="nan"), "reference_cfgs is 'nan'"),
        (dict(reference_cfgs="1, -1"), "'-1' is not allowed"),
        (dict(audio_cfgs="1e9"), "'1e9' is not allowed"),
        (dict(frames="49"), "frames is '49': '49' is not allowed, expected whole numbers from 0 to 48"),
        (dict(frames="2.5"), "'2.5' is not allowed"),
        (dict(frames="1,2,3,4,5"), "5 frames, at most 4"),
        (dict(audio_cfgs="1,2,3,4,5,6,7", text_cfgs="1,2,3,4,5,6"), "7 x 6 x 1 scales are 42 cells: at most 36"),
        (dict(clip_index=2), "clip 2 does not exist"),
    ],
)
def test_wrong_lists_are_refused_before_anything_is_sampled(pack, grid, monkeypatch, changes, words):
    monkeypatch.setattr(pack("nodes.host.guider").Guider, "sample", lambda *args: pytest.fail("sampled"))
    with pytest.raises(pack("hallo3_core.errors").InputError, match=words):
        grid(**changes)


def test_a_reference_scale_in_any_cell_asks_for_the_null_first(pack, scene, grid):
    with pytest.raises(pack("hallo3_core.errors").InputError, match="lacks its null"):
        grid(reference=replace(scene.reference, null_bank=None), reference_cfgs="1, 2")


def test_a_sheet_holds_every_picture_unchanged(pack):
    sheet_of = pack("hallo3_core.film.contact_sheet").contact_sheet
    pictures = [[torch.rand(3, 30, 40) for _ in range(3)] for _ in range(2)]
    sheet = sheet_of(pictures, ["audio 1", "audio 3.5"], ["text 1", "text 2", "text 3"], "reference 1")
    windows = sheet.unfold(1, 30, 1).unfold(2, 40, 1)
    for picture in (picture for row in pictures for picture in row):
        assert (windows == picture[:, None, None]).all(dim=-1).all(dim=-1).all(dim=0).sum() == 1
    other = sheet_of(pictures, ["audio 1", "audio 3.5"], ["text 1", "text 2", "text 3"], "reference 1.5 and more")
    assert other.shape == sheet.shape and not torch.equal(other, sheet)
    with pytest.raises(ValueError, match="expected 2 rows of 4"):
        sheet_of(pictures, ["audio 1"] * 2, ["text 1"] * 3 + ["text 4"], "reference 1")
