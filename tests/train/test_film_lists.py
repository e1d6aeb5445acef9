"""Lists of films, what is said of each film before anything is computed, and what the cache keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hallo3_core.errors import InputError
from hallo3_core.inputs.face import Face
from hallo3_core.train import cache as caching
from hallo3_core.train.cache import cache_films
from hallo3_core.train.checking import check_held_out, problems, usage
from hallo3_core.train.config import Data
from hallo3_core.train.film import FilmError, film_of_arrays
from hallo3_core.train.films import read_films
from hallo3_core.train.geometry import fitted
from hallo3_core.train.placing import placing
from hallo3_core.train.reading import window_starts
from hallo3_core.train.stored import Digests, TensorStore
from tests import footage
from tests.train import toys

BOX = [30, 20, 110, 90]  # of the pictures of 144 x 96
DATA = Data(size=(32, 48), windows=1, references=2)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return footage.write(tmp_path_factory.mktemp("film") / "a.mp4")


def listing(folder: Path, video: Path, *changes: dict) -> Path:
    lines = [{"film": str(video), "caption": "A person talks.", "face_box": BOX} | change for change in changes or [{}]]
    text = "\n".join(json.dumps({k: v for k, v in line.items() if v is not ...}, ensure_ascii=False) for line in lines)
    (folder / "clips.jsonl").write_text(text, encoding="utf-8", newline="\n")
    return folder


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("caption", ["A café.", "one\u2028two\u0085three", "\ufeffmarked"])
def test_captions_are_read_in_any_unicode(tmp_path, video, encoding, caption):
    listing(tmp_path, video, {"caption": caption}, {"caption": "B."})
    path = tmp_path / "clips.jsonl"
    path.write_bytes(path.read_text("utf-8").replace("\n", "\r\n").encode(encoding))
    assert [film.caption for film in read_films(tmp_path)] == [caption, "B."]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"caption": None}, "caption is null, expected text"),
        ({"caption": "  "}, 'caption is "  ", expected text'),
        ({"caption": ...}, "has no caption"),
        ({"film": 3}, "film is 3, expected text"),
        ({"film": "b.mp4"}, "b.mp4 is missing"),
        ({"audio": "b.wav"}, "unknown key 'audio': did you mean sound?"),
        ({"mouthbox": BOX}, "unknown key 'mouthbox': did you mean mouth_box?"),
        ({"face_box": [0, 0, 1e999, 90]}, r"face_box is \[0, 0, Infinity, 90\], expected"),
        ({"face_box": [True, 0, 2, 3]}, "face_box is"),
        ({"face_box": ["a", 0, 2, 3]}, "face_box is"),
        ({"face_box": [110, 20, 30, 90]}, "expected .left, top, right, bottom. in pixels"),
    ],
)
def test_a_wrong_line_is_named_with_its_reason(tmp_path, video, change, words):
    listing(tmp_path, video, {}, change)
    with pytest.raises(InputError, match=f"clips.jsonl, line 2: .*{words}"):
        read_films(tmp_path)
    assert len(read_films(tmp_path, skip_bad=True)) == 1


def test_all_wrong_lines_are_told_at_once(tmp_path, video):
    listing(tmp_path, video, {"caption": None}, {}, {"film": "b.mp4"})
    with pytest.raises(InputError) as refused:
        read_films(tmp_path)
    assert [line.split(": ")[0][-6:] for line in str(refused.value).splitlines()[:2]] == ["line 1", "line 3"]


@pytest.mark.parametrize("content", ["[1]", "7", "{", "[" * 100_000])
def test_a_line_that_is_no_object_is_refused(tmp_path, content):
    (tmp_path / "clips.jsonl").write_text(content)
    with pytest.raises(InputError, match="line 1: is not a JSON object"):
        read_films(tmp_path)


def test_latin_1_is_refused_with_its_line(tmp_path, video):
    listing(tmp_path, video, {}, {"caption": "café"})
    path = tmp_path / "clips.jsonl"
    path.write_bytes(path.read_text("utf-8").encode("latin-1"))
    with pytest.raises(InputError, match="clips.jsonl, line 2: is not UTF-8 text"):
        read_films(tmp_path)


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([[0.1, 0.1, 0.9, 0.9], [0.1, 0.1, 0.9]], "expected a list of"),
        ({"0": [0.1, 0.1, 0.9, 0.9]}, "expected a list of"),
        ([0.1, 0.1, 0.9, 0.9], r"holds \[4\], expected frames x 4"),
        ([[30, 20, 110, 90]] * 60, "in 0..1, not pixels"),
        ([[0.9, 0.1, 0.1, 0.9]] * 60, "box 0 is"),
        ([[0.1, 0.1, 0.9, float("nan")]] * 60, "in 0..1"),
    ],
)
def test_boxes_of_the_original_list_are_checked(tmp_path, video, boxes, words):
    torch.save(torch.ones(512), tmp_path / "face.pt")
    torch.save(torch.zeros(60, 3, 24), tmp_path / "audio.pt")
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    entry = {"video_path": str(video), "face_emb_path": "face.pt", "vocals_emb_base_all": "audio.pt", "caption": "A."}
    (tmp_path / "list.json").write_text(json.dumps([entry | {"bbox": "boxes.json"}]))
    with pytest.raises(InputError, match=words):
        read_films(tmp_path / "list.json")


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([0.3, 0.2, 0.7, 0.8], "in shares of the picture. Give it in pixels of 144x96"),
        ([60, 20, 150, 90], "reaches outside the picture, which is 144x96"),
        ([-20, 20, 100, 90], "reaches outside the picture"),
        ([400, 300, 500, 400], "reaches outside the picture"),
    ],
)
def test_a_box_that_is_not_in_the_picture_is_refused(tmp_path, video, box, words):
    (film,) = read_films(listing(tmp_path, video, {"face_box": box}))
    assert words in problems([film], DATA, True)[0]


def test_portrait_footage_is_cropped_around_the_face_never_stretched():
    fit = fitted((1920, 1080), (480, 720), torch.tensor([300.0, 200, 800, 900]))
    assert fit.scaled == (1280, 720) and fit.corner[1] == 0
    left, top, right, bottom = fit.box(torch.tensor([300.0, 200, 800, 900])).tolist()
    assert 0 <= top and bottom <= 480
    assert (right - left) / (bottom - top) == pytest.approx(500 / 700, rel=0.01)


def test_a_face_that_no_crop_holds_is_refused_with_the_command_that_mends_it():
    frames = torch.zeros(50, 192, 108, 3, dtype=torch.uint8)
    film = film_of_arrays("tall.mp4", frames, "A person.", (4, 10, 104, 130), torch.zeros(32_000))
    with pytest.raises(FilmError, match='ffmpeg -i "tall.mp4" -vf pad=288:192:-1:-1 padded.mp4'):
        placing(film, film.look(), (480, 720))


def test_a_crop_shows_the_same_picture_and_box():
    """A white square, at the box, in black: it is where the box says after any fit."""
    for (height, width), box in {(96, 144): BOX, (192, 108): [30, 40, 80, 90], (100, 100): [20, 30, 60, 80]}.items():
        frames = torch.zeros(1, 3, height, width, dtype=torch.uint8)
        frames[..., box[1] : box[3], box[0] : box[2]] = 255
        fit = fitted((height, width), (64, 96), torch.tensor(box))
        rows, columns = (fit.frames(frames)[0, 0] > 127).nonzero().T
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert fit.box(torch.tensor(box)).tolist() == pytest.approx([float(side) for side in found], abs=1)


def test_the_face_inside_the_box_is_taken_not_the_larger_one():
    film, encoders = toys.films(1)[0], toys.encoders()
    large, small = (
        Face(torch.full((512,), value), box, torch.zeros(5, 2), 0, 2, 0.9, box)
        for value, box in ((1.0, (0, 0, 7, 30)), (2.0, (10, 6, 38, 26)))
    )
    both = replace(encoders, faces=lambda frame: [large, small])
    (entry,) = cache_films([film], both, DATA, None)
    assert torch.equal(entry.face, small.embedding)
    with pytest.raises(InputError, match=r"no face inside face_box \[8, 4, 40, 28\]; one was found at \[0, 0, 7, 30\]"):
        cache_films([film], replace(encoders, faces=lambda frame: [large]), DATA, None)
    with pytest.raises(InputError, match="no face found in 12 of its frames"):
        cache_films([film], replace(encoders, faces=lambda frame: []), DATA, None)


def test_a_missing_package_is_not_a_missing_face():
    def missing(frame):
        raise InputError("finding a face needs the package insightface.")

    with pytest.raises(InputError, match="^finding a face needs the package insightface.$"):
        cache_films(toys.films(2), replace(toys.encoders(), faces=missing), DATA, None)


def test_bad_films_are_told_together_or_left_out(caplog):
    films = toys.films(3)
    mute = [replace(films[0], sound=None), films[1], replace(films[2], sound=None)]
    with pytest.raises(InputError) as refused:
        cache_films(mute, toys.encoders(), DATA, None)
    assert [line[:6] for line in str(refused.value).splitlines()[:2]] == ["film 0", "film 2"]
    entries = cache_films(mute, toys.encoders(), replace(DATA, skip_bad=True), None)
    assert [entry.film for entry in entries] == [1]
    assert "left out: film 0" in caplog.text
    with pytest.raises(InputError):
        cache_films(mute[:1], toys.encoders(), replace(DATA, skip_bad=True), None)


def test_a_new_caption_encodes_text_alone(tmp_path, monkeypatch):
    films, encoders = toys.films(1), toys.encoders()
    before = cache_films(films, encoders, DATA, tmp_path)
    kinds = []
    monkeypatch.setattr(TensorStore, "put", lambda self, kind, key, tensors: kinds.append(kind) or tensors)
    after = cache_films([replace(films[0], caption="another light")], encoders, DATA, tmp_path)
    assert kinds == ["text"]
    assert torch.equal(before[0].clip, after[0].clip) and before[0].identity != after[0].identity


HALF_ZEROS = lambda content: content[: len(content) // 2].ljust(len(content), b"\0")  # noqa: E731


@pytest.mark.parametrize("damage", [HALF_ZEROS, lambda content: content[: len(content) // 2], lambda content: b""])
def test_a_damaged_file_of_the_cache_is_computed_again(tmp_path, damage, caplog):
    clip = toys.entries(1, tmp_path)[0].clip.clone()
    (path,) = (tmp_path / "vae").iterdir()
    damaged = damage(path.read_bytes())
    path.unlink()
    path.write_bytes(damaged)
    again = toys.entries(1, tmp_path)
    assert torch.equal(clip, again[0].clip)
    assert "damaged, so it is computed again" in caplog.text


def test_a_long_film_is_kept_in_parts_that_share_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(caching, "CLIPS_PER_FILE", 2)
    frames = torch.arange(260)[:, None, None, None].expand(-1, *toys.SIZE, 3).to(torch.uint8)
    sound = toys.noise(260 * 640, seed=1)
    film = film_of_arrays("long", frames, "A light.", (8, 4, 40, 28), sound, face=torch.ones(512))
    parts = cache_films([film], toys.encoders(), replace(DATA, windows=None), tmp_path)
    starts = torch.cat([part.starts for part in parts])
    assert len(parts) == 3 and torch.equal(starts, window_starts(260, None))
    assert len({id(part.portrait) for part in parts}) == len({id(part.audio) for part in parts}) == 1
    told = usage(parts, [])
    assert (told.films, told.clips, told.seconds) == (1, 6, 260 / 25) and told.used > 0.95 * told.seconds
    monkeypatch.setattr(caching, "CLIPS_PER_FILE", 99)
    (whole,) = cache_films([film], toys.encoders(), replace(DATA, windows=None), None)
    for name in ("clip", "motion"):
        assert torch.allclose(
            torch.cat([getattr(p, name) for p in parts]).float(), getattr(whole, name).float(), atol=1e-2
        )


@pytest.mark.parametrize("frames", [49, 54, 55, 56, 103, 104, 1000, 4321])
def test_by_default_all_of_a_film_is_used(frames):
    starts = window_starts(frames, None)
    used = {start + n for start in starts.tolist() for n in range(49)}
    margin = 3 if frames >= 55 else 0  # the audio windows' reach, as in the original
    assert used == set(range(margin, frames - margin)) or frames < 55


def test_what_is_trained_on_is_not_held_out(caplog):
    films = toys.films(3)
    check_held_out(films, 1)
    with pytest.raises(InputError, match="film 0: is held out, but film 0 has the same pictures"):
        check_held_out([*films, films[0]], 1)
    with pytest.raises(InputError, match="data.held_out is 3 of 3 videos"):
        check_held_out(films, 3)
    check_held_out([replace(film, recording="talk") for film in films], 1)
    assert "clips of talk are trained on and held out" in caplog.text


def test_files_are_hashed_once(tmp_path, monkeypatch):
    path = tmp_path / "film"
    path.write_bytes(b"one")
    first = Digests(tmp_path / "cache").of(path)
    monkeypatch.setattr("hallo3_core.train.stored.file_digest", lambda path: "read again")
    assert Digests(tmp_path / "cache").of(path) == first
    path.write_bytes(b"longer")
    assert Digests(tmp_path / "cache").of(path) == "read again"


def test_a_file_of_the_cache_can_be_read_back(tmp_path):
    store = TensorStore(tmp_path)
    store.put("text", "a", {"text": torch.ones(2)})
    assert torch.equal(load_file(tmp_path / "text" / "a.safetensors")["text"], torch.ones(2))
    assert [path.name for path in (tmp_path / "text").iterdir()] == ["a.safetensors"]
