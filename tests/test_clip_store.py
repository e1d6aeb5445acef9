"""The clip store returns clips as they were saved, and never a damaged clip or one of another film."""

from __future__ import annotations

import json
import sys
from collections import namedtuple

import av
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hallo3_core.errors import InputError
from hallo3_core.film.clip_chain import Clip, clip_chain, lazily
from hallo3_core.film.clip_store import ClipStore, FilmPlan, beside, decode_frames, encode_frames, work_on
from hallo3_core.film.work_folder import Keeping, WorkFolder, clip_bytes

INPUTS = {"seed": "5", "portrait": "a" * 64}
PLAN = FilmPlan("film.mp4", 3, 4, 6, INPUTS)


def clip(number: int, motion: torch.Tensor | None) -> Clip:
    """A clip that depends on the preceding one."""
    draw = torch.Generator().manual_seed(number)
    frames = torch.randint(0, 256, (7, 4, 6, 3), generator=draw, dtype=torch.uint8)
    before = 0 if motion is None else motion.mean()
    return Clip(frames, torch.rand(2, 3, 4, 6, generator=draw) + before)


@pytest.fixture
def open_store(tmp_path):
    """`open_store(inputs)` opens the store as a new run would."""
    opened = []

    def close() -> None:
        while opened:
            opened.pop().__exit__(None, None, None)

    def make(inputs=INPUTS) -> ClipStore:
        close()
        opened.append(WorkFolder(tmp_path / "work", "film.mp4").__enter__())
        return ClipStore(opened[0], inputs)

    make.close = close
    yield make
    close()


@pytest.fixture
def filled(open_store):
    """Saves three clips and returns the film's frames."""
    return list(clip_chain(3, clip, open_store()))


@pytest.fixture
def take(tmp_path, filled):
    """The folder of those clips."""
    (folder,) = (path for path in (tmp_path / "work").iterdir() if path.is_dir())
    return folder


@given(seed=st.integers(0, 1000), count=st.integers(1, 5), height=st.integers(2, 20), width=st.integers(2, 20))
def test_frames_come_back_bit_for_bit(seed, count, height, width):
    """A film's sides have 16 pixels or more. With 2, FFmpeg 7.1 (PyAV 14) decodes zeros on some processors."""
    draw = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (count, height * 2, width * 2, 3), generator=draw, dtype=torch.uint8)
    assert torch.equal(decode_frames(encode_frames(frames)), frames)


def test_every_level_of_every_colour_comes_back():
    levels = torch.arange(256, dtype=torch.uint8)
    for channel in range(3):
        frames = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
        frames[0, :, :, channel] = levels.view(16, 16)
        assert torch.equal(decode_frames(encode_frames(frames)), frames)


def test_a_chain_goes_on_with_what_is_there(open_store, filled):
    made, kept = [], []
    store = open_store()
    again = list(clip_chain(3, lambda *args: made.append(args), store, kept.append))
    assert all(torch.equal(a, b) for a, b in zip(again, filled, strict=True))
    assert not made and kept == [0, 1, 2] and store.note == "3 finished clips are there from an earlier run"


def test_motion_frames_come_back_bit_for_bit(open_store, filled):
    store, motion = open_store(), None
    for number in range(3):
        motion = clip(number, motion).motion
        assert torch.equal(store.load(number).motion, motion)


def test_kept_clips_are_files_that_players_show(take):
    with av.open(str(take / "clip_00001.mkv")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 7
        assert container.streams.video[0].average_rate == 25


@pytest.mark.parametrize("name", ["clip_00001.mkv", "clip_00001.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_clip_is_made_again_and_the_others_stay(open_store, filled, take, name, damage):
    path = take / name
    content = path.read_bytes()
    path.unlink() if damage == "remove" else path.write_bytes(
        content[:-1] if damage == "cut" else content[:40] + bytes([content[40] ^ 1]) + content[41:]
    )
    made = []
    again = list(clip_chain(3, lambda n, motion: made.append(n) or clip(n, motion), open_store()))
    assert made == [1]
    assert all(torch.equal(a, b) for a, b in zip(again, filled, strict=True))


def test_clips_behind_one_that_came_out_differently_are_made_again(open_store, take):
    (take / "clip_00000.safetensors").unlink()
    made = []

    def other(number, motion):
        made.append(number)
        frames, motion = clip(number, motion)
        return Clip(frames, motion * 0.5 if number == 0 else motion)

    list(clip_chain(3, other, open_store()))
    assert made == [0, 1, 2]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", None])
def test_a_damaged_manifest_starts_afresh(open_store, take, content):
    path = take / "manifest.json"
    whole = json.loads(path.read_bytes())
    path.write_bytes(json.dumps({**whole, "format": 2}).encode() if content is None else content)
    store = open_store()
    assert store.finished == 0 and "manifest.json is damaged" in store.note
    assert not list(take.glob("clip_*"))


OTHER = {"seed": "6", "portrait": "b" * 64, "face": "'largest'"}


def test_other_inputs_start_afresh_and_the_clips_of_the_first_stay(open_store, filled, take, caplog):
    before = {path: path.read_bytes() for path in take.iterdir()}
    store = open_store(OTHER)
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith("film.mp4: starting afresh: seed was 5, is 6; portrait changed; face is new. The 3 clips ")
    assert str(take) in said and store.finished == 0 and store.folder != take
    store.save(0, clip(7, None))
    assert {path: path.read_bytes() for path in take.iterdir()} == before
    caplog.clear()
    again = open_store()
    assert again.finished == 3 and again.note == "3 finished clips are there from an earlier run" and not caplog.records
    assert all(torch.equal(again.load(n).frames, frames) for n, frames in enumerate(filled))
    assert open_store(OTHER).finished == 1


def test_of_several_takes_the_one_most_alike_is_compared(open_store, filled, tmp_path, caplog):
    open_store(OTHER).save(0, clip(0, None))
    caplog.clear()
    open_store({**OTHER, "face": "'leftmost'"})
    assert "starting afresh: face was 'largest', is 'leftmost'. The 4 clips that were finished" in caplog.text
    assert f"stay in {tmp_path / 'work'} (" in caplog.text


def test_inputs_that_differ_in_values_of_samples_alone_have_folders_of_their_own(open_store, tmp_path):
    """Such values are not in the folder's name, since a GPU need not repeat them exactly."""
    folders = set()
    for value in ("1 2 3", "1 2 3.001", "3 2 1", "2 2 2"):
        store = open_store({"seed": "1", "text": f"about [3] x 1: {value}"})
        store.finished or store.save(0, clip(0, None))
        folders.add(store.folder)
    assert len(folders) == 3 == len(list((tmp_path / "work").glob("*/manifest.json")))


def test_a_whole_film_takes_its_own_clips_along_and_no_others(open_store, filled, take, tmp_path):
    for keeping in (Keeping.NEVER, Keeping.UNTIL_WHOLE):
        plan = FilmPlan("film.mp4", 3, 4, 6, OTHER)
        open_store.close()
        with work_on(tmp_path / "work", plan, keeping, "", str) as (_, store):
            list(clip_chain(3, clip, store))
        assert len(list(take.glob("clip_*"))) == 6
        assert [path.name for path in (tmp_path / "work").iterdir()] == [take.name]


def test_clips_of_an_earlier_version_lie_in_the_work_folder_itself(open_store, filled, take, tmp_path):
    open_store.close()
    for path in list(take.iterdir()):
        path.rename(tmp_path / "work" / path.name)
    take.rmdir()
    assert open_store().finished == 3
    open_store(OTHER)
    assert len(list((tmp_path / "work").glob("clip_*"))) == 6


def test_what_a_killed_run_left_unfinished_is_removed_and_the_rest_is_not_touched(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("clip_00003.mkv.part", "film.part.mp4", "my notes.txt"):
        (folder / name).touch()
    with WorkFolder(folder, "film.mp4"):
        assert sorted(path.name for path in folder.iterdir()) == ["lock", "my notes.txt"]
    assert [path.name for path in folder.iterdir()] == ["my notes.txt"]


def test_a_folder_without_clips_goes(tmp_path):
    with pytest.raises(KeyboardInterrupt), work_on(tmp_path / "work", PLAN, Keeping.UNTIL_WHOLE, "", str):
        raise KeyboardInterrupt
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("keeping", Keeping)
def test_what_is_left_of_a_whole_film(tmp_path, keeping):
    with work_on(tmp_path / "work", PLAN, keeping, "", str) as (part, store):
        list(clip_chain(3, clip, store))
        assert part.parent == tmp_path / "work" and (store is None) == (keeping is Keeping.NEVER)
    assert (tmp_path / "work").exists() == (keeping is Keeping.ALWAYS)


def test_the_room_is_stated_and_asked_for_first(tmp_path, monkeypatch):
    lines, usage = [], namedtuple("usage", "total used free")
    plan = FilmPlan("film.mp4", 32, 480, 720, INPUTS)
    with work_on(tmp_path / "work", plan, Keeping.UNTIL_WHOLE, "", lines.append):
        pass
    assert lines == [f"keeping finished clips in {tmp_path / 'work'}, about 1.2 GB, until the video is whole"]
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**12, 0, 3 * 10**8))
    with (
        pytest.raises(InputError, match=r"takes about 1\.2 GB in .*, 300 MB are free\. Make room, or say please"),
        work_on(tmp_path / "work", plan, Keeping.UNTIL_WHOLE, "say please", lines.append),
    ):
        pass
    assert not (tmp_path / "work").exists()


def test_the_estimate_is_above_what_a_moving_photograph_takes(portrait):
    from PIL import Image

    size, draw = 128, torch.Generator().manual_seed(0)
    picture = torch.tensor(list(Image.open(portrait).convert("RGB").resize((size, size)).getdata()))
    picture = picture.view(size, size, 3).float()
    frames = torch.stack([picture.roll(t // 3, 0) + torch.randn(picture.shape, generator=draw) for t in range(47)])
    taken = len(encode_frames(frames.clamp(0, 255).to(torch.uint8))) + 2 * 3 * size * size * 4
    assert 0.5 < taken / clip_bytes(size, size) < 1


def test_an_unusable_folder_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"), WorkFolder(tmp_path / "file", "film.mp4"):
        pass
    with pytest.raises(InputError, match="cannot be made"), WorkFolder(tmp_path / "file" / "work", "film.mp4"):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="an open folder cannot be removed there")
def test_a_clip_that_cannot_be_kept_is_reported(open_store, filled, tmp_path):
    import shutil

    store = open_store()
    shutil.rmtree(tmp_path / "work")
    with pytest.raises(InputError, match=r"clip 4 could not be kept \(No such file"):
        store.save(3, clip(3, None))


def test_work_folders_are_hidden_beside_their_films(tmp_path):
    assert beside(tmp_path / "a.mp4") == tmp_path / ".a.mp4.work"
    long, other = ("é" * 120 + f"{n}.mp4" for n in range(2))
    assert beside(tmp_path / long) != beside(tmp_path / other)
    beside(tmp_path / long).mkdir()


def test_a_maker_is_opened_for_the_first_clip_and_closed_at_the_end():
    from contextlib import contextmanager

    events = []

    @contextmanager
    def maker():
        events.append("open")
        yield lambda number, motion: events.append(number)
        events.append("close")

    with lazily(maker()) as make:
        assert not events
        make(0, None), make(1, None)
    assert events == ["open", 0, 1, "close"]
    with lazily(maker()):
        pass
    assert len(events) == 4
