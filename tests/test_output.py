"""Room for a film, and where it goes when its name is a link."""

from __future__ import annotations

import sys
from collections import namedtuple

import pytest
import torch

from hallo3_core.errors import InputError
from hallo3_core.film.output import check_output, check_room, film_bytes, target_of
from hallo3_core.film.writer import FilmWriter, read_film

Usage = namedtuple("Usage", "total used free")


def test_the_room_is_looked_at(tmp_path, monkeypatch):
    need = film_bytes(1500, 480, 720)
    assert 10e6 < need < 20e6, "a minute"
    for free in (need, need - 1):
        monkeypatch.setattr("shutil.disk_usage", lambda path, free=free: Usage(10**12, 0, free))
        if free == need:
            check_room("a.mp4", tmp_path, 1500, 480, 720, "say please")
        else:
            with pytest.raises(InputError, match=r"a\.mp4: the video takes about 12 MB in .*Make room, or say please"):
                check_room("a.mp4", tmp_path, 1500, 480, 720, "say please")
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(0, 0, 0))
    check_room("a.mp4", tmp_path, 1500, 480, 720, "")  # a disk that does not say


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_film_is_written_through_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    link, real = tmp_path / "film.mp4", tmp_path / "there" / "real.mp4"
    link.symlink_to("there/real.mp4")
    assert check_output(link) == link and target_of(link) == real.resolve() and target_of(real) == real
    for _ in range(2):  # not there yet, and there
        with FilmWriter(link, 16, 16) as film:
            film.write(torch.zeros(2, 16, 16, 3, dtype=torch.uint8))
        assert link.is_symlink() and not real.is_symlink() and len(read_film(link)[0]) == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["film.mp4", "real.mp4", "there"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_where_a_link_cannot_be_followed_is_said(tmp_path):
    (tmp_path / "nowhere.mp4").symlink_to("gone/film.mp4")
    with pytest.raises(InputError, match=r"nowhere\.mp4 \(a link to .*\): there is no folder"):
        check_output(tmp_path / "nowhere.mp4")
    protected = tmp_path / "mine.mp4"
    protected.touch(mode=0o444)
    with pytest.raises(InputError, match=r"mine\.mp4: is write-protected"):
        check_output(protected)
