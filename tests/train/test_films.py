"""Films to train on: the two lists, arrays without running code, and what the original's data set makes of them."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hallo3_core.errors import InputError
from hallo3_core.train import geometry
from hallo3_core.train.arrays import read_array
from hallo3_core.train.cache import OVALS_LOOKED_AT, cache_films
from hallo3_core.train.reading import window_starts
from tests.train import toys


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_numpy_array_is_read(tmp_path, dtype, protocol):
    array = np.random.default_rng(0).standard_normal(512).astype(dtype)
    torch.save(array, tmp_path / "face.pt", pickle_protocol=protocol)
    assert torch.equal(read_array(tmp_path / "face.pt"), torch.from_numpy(array))


@pytest.mark.parametrize("tensor", [torch.randn(7, 3, 2), torch.randn(4, 6).T, torch.arange(5.0)[1:]])
def test_a_tensor_is_read(tmp_path, tensor):
    torch.save(tensor, tmp_path / "audio.pt")
    assert torch.equal(read_array(tmp_path / "audio.pt"), tensor)


class Runs:
    def __reduce__(self):
        return (print, ("ran",))


@pytest.mark.parametrize("content", [Runs(), {"a": 1}, [np.zeros(3), Runs()], "text", np.array(["a"])])
def test_anything_else_is_refused_and_not_run(tmp_path, content, capsys):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(InputError, match="nothing in it was executed"):
        read_array(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match="nothing in it was executed"):
        read_array(tmp_path / "x.pt")
    assert not capsys.readouterr().out


@pytest.mark.parametrize(("frames", "count"), [(49, 1), (49, 4), (54, 2), (55, 3), (200, 8), (1000, 1)])
def test_windows_lie_in_the_film_and_leave_room_for_the_sound(frames, count):
    starts = window_starts(frames, count)
    assert 1 <= len(starts) <= count and len(set(starts.tolist())) == len(starts)
    if frames >= 55:
        assert starts.min() >= 3 and starts.max() <= frames - 52
    else:
        assert starts.min() >= 0 and starts.max() <= frames - 49


def test_a_square_film_gets_black_columns():
    frames = torch.full((2, 3, 10, 10), 200, dtype=torch.uint8)
    placed = geometry.squared(frames, (16, 24))
    assert placed.shape == (2, 3, 16, 24) and placed.dtype == torch.uint8
    assert (placed[..., :4] == 0).all() and (placed[..., 20:] == 0).all() and (placed[..., 4:20] == 200).all()


def test_a_box_keeps_what_is_inside():
    box = torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    assert geometry.box_mask(box, (4, 8)).tolist() == [[0] * 8] * 2 + [[0, 0, 1, 1, 1, 1, 0, 0]] * 2


def test_a_changed_film_is_computed_again(tmp_path):
    before = toys.entries(1, tmp_path)
    films = toys.films(1)
    changed = torch.stack(list(films[0].look().pictures()))
    changed[10] += 1
    files = len(list(tmp_path.rglob("*.safetensors")))
    again = toys.entries(1, tmp_path)
    assert torch.equal(before[0].clip, again[0].clip)
    assert len(list(tmp_path.rglob("*.safetensors"))) == files
    assert toys.film(0, changed).identity != films[0].identity


def test_without_a_face_box_the_oval_is_found_in_the_films_frames():
    """The portrait is masked as with the box of all ovals that are looked at; a film with a box is not looked at."""
    film, seen = toys.films()[1], []
    encoders, data = toys.encoders(), toys.configuration(Path()).data

    def watched(frame):
        seen.append(toys.face(frame).oval)
        return encoders.faces(frame)

    def masked(film, faces):
        (entry,) = cache_films([film], replace(encoders, faces=faces), data, None, with_face=False)
        return entry.masked

    found = masked(replace(film, box=None), watched)
    ovals = torch.tensor(seen)
    assert len(seen) >= OVALS_LOOKED_AT
    box = (*ovals[:, :2].amin(0).tolist(), *ovals[:, 2:].amax(0).tolist())
    assert torch.equal(found, masked(replace(film, box=box), None))
    assert not torch.equal(found, masked(film, None))
    with pytest.raises(InputError, match="no face analyser is loaded to find its face"):
        masked(replace(film, box=None), None)


def test_a_film_without_a_box_and_a_face_is_refused():
    film, data = replace(toys.films()[0], box=None), toys.configuration(Path()).data
    with pytest.raises(InputError, match="film 0: no face found in "):
        cache_films([film], replace(toys.encoders(), faces=lambda frame: []), data, None)
