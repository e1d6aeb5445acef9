"""Where a film goes, and batch files."""

from __future__ import annotations

import os

from hallo3_core.film.writer import read_film

from . import Given, Place, case


@case("output: no ending")
def no_ending(place):
    return Given({"--output": place.folder / "film"})


@case("output: .avi")
def another_ending(place):
    return Given({"--output": place.folder / "film.avi"})


@case("output: folder")
def folder(place):
    (place.folder / "folder.mp4").mkdir()
    return Given({"--output": place.folder / "folder.mp4"})


@case("output: in a folder that is not there")
def no_folder(place):
    return Given({"--output": place.folder / "none" / "film.mp4"})


@case("output: in a folder that takes no files")
def read_only(place):
    return Given({"--output": "/proc/film.mp4"})  # to root, other folders are writable whatever their permissions


@case("output: film that is there")
def there(place):
    return Given()


@case("output: name with blanks, colon and letters of all kinds")
def odd_name(place):
    path = place.folder / "scene 1: é 人 %d.mp4"

    def treated() -> None:
        assert len(read_film(path)[0]) == 5

    return Given({"--output": path}, frames=None, treated=treated)


def batch(place: Place, content: str | bytes, *options: object, films: tuple[str, ...] | None = None) -> Given:
    """A batch file beside its inputs; `films` are those that must be made of it."""
    for name, source in (("me.jpg", place.portrait), ("voice.wav", place.speech)):
        (place.folder / name).write_bytes(source.read_bytes())
    jobs = place.folder / "jobs.txt"
    jobs.write_bytes(content.encode() if isinstance(content, str) else content)
    (place.folder / "films").mkdir()

    def treated() -> None:
        assert tuple(sorted(path.name for path in (place.folder / "films").iterdir())) == films
        assert all(len(read_film(place.folder / "films" / name)[0]) == 5 for name in films)

    words = ["batch", jobs, "--output-dir", place.folder / "films", "--models", place.release]
    words += ["--size", "16x16", "--steps", "1", "--device", "cpu", *options]
    return Given(command=words, frames=None, treated=None if films is None else treated)


LINE = "A person talks.@@me.jpg@@voice.wav"


@case("batch: line ends of Windows, and a byte order mark")
def windows(place):
    return batch(place, b"\xef\xbb\xbf" + f"{LINE}\r\n\r\n{LINE}\r\n".encode(), films=("0000.mp4", "0001.mp4"))


@case("batch: other separators")
def separators(place):
    return batch(place, "A person talks.||me.jpg||voice.wav")


@case("batch: a fourth part")
def fourth(place):
    return batch(place, f"{LINE}@@more")


@case("batch: empty part")
def no_prompt(place):
    return batch(place, "@@me.jpg@@voice.wav")


@case("batch: empty file")
def empty(place):
    return batch(place, "")


@case("batch: blank lines alone")
def blank(place):
    return batch(place, "\n \n\t\n")


@case("batch: binary file")
def binary(place):
    return batch(place, bytes(range(256)))


@case("batch: UTF-16")
def utf16(place):
    return batch(place, LINE.encode("utf-16"))


@case("batch: not there")
def missing(place):
    given = batch(place, LINE, films=())
    (place.folder / "jobs.txt").unlink()
    return given


@case("batch: folder of films not there")
def no_films(place):
    given = batch(place, LINE)
    (place.folder / "films").rmdir()
    return given


@case("batch: picture of one line of two not readable")
def one_bad(place):
    (place.folder / "bad.png").write_text("no picture")
    return batch(place, f"Him.@@bad.png@@voice.wav\n{LINE}", films=("0001.mp4",))


@case("batch: path with ..")
def parent(place):
    return batch(place, "Him.@@../../me.jpg@@voice.wav", films=())


@case("batch: path from the root")
def root(place):
    return batch(place, f"Him.@@{place.portrait}@@voice.wav", films=())


@case("batch: link that leads elsewhere")
def link(place):
    os.symlink(place.portrait, place.folder / "link.jpg")
    return batch(place, "Him.@@link.jpg@@voice.wav", films=())


@case("batch: path elsewhere, with --inputs")
def allowed(place):
    return batch(place, f"Him.@@{place.portrait}@@voice.wav", "--inputs", place.portrait.parent, films=("0000.mp4",))


@case("batch: path that is none")
def no_path(place):
    return batch(place, "Him.@@me\0.jpg@@voice.wav", films=())
