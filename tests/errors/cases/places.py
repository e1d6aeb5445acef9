"""Where a film goes, and batch files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from unittest import mock

from hallo3_core.cli.main import main
from hallo3_core.film.writer import read_film
from hallo3_core.inputs.recording import read_recording

from . import Case, Place, case
from .files import encoded, tone, wav


@case("output: no extension")
def no_extension(place):
    return Case({"--output": place.folder / "film"})


@case("output: .avi")
def another_ending(place):
    return Case({"--output": place.folder / "film.avi"})


@case("output: folder")
def folder(place):
    (place.folder / "folder.mp4").mkdir()
    return Case({"--output": place.folder / "folder.mp4"})


@case("output: in a folder that is not there")
def no_folder(place):
    return Case({"--output": place.folder / "none" / "film.mp4"})


@case("output: in a folder that takes no files")
def read_only(place):
    return Case({"--output": "/proc/film.mp4"})  # to root, other folders are writable whatever their permissions


@case("output: video that is there")
def there(place):
    return Case()


def linked(place: Place, target: Path) -> Case:
    """The output is a link, relative as `ln -s` makes it."""
    (place.folder / "elsewhere").mkdir(exist_ok=True)
    link = place.folder / "link.mp4"
    link.symlink_to(target.relative_to(place.folder))

    def treated() -> None:
        assert link.is_symlink() and not target.is_symlink() and len(read_film(target)[0]) == 5
        assert [path.name for path in target.parent.iterdir()] == [target.name], "no work folder is left"

    return Case({"--output": link}, frames=None, treated=treated)


@case("output: link to a video")
def link_to_film(place):
    (place.folder / "elsewhere").mkdir()
    (place.folder / "elsewhere" / "real.mp4").write_bytes(b"an older film")
    return linked(place, place.folder / "elsewhere" / "real.mp4")


@case("output: link to a video that is not there yet")
def dangling(place):
    return linked(place, place.folder / "elsewhere" / "real.mp4")


@case("output: link to itself")
def loop(place):
    (place.folder / "link.mp4").symlink_to("link.mp4")
    return Case({"--output": place.folder / "link.mp4"}, frames=None)


def protected(place: Place, output: Path) -> Case:
    film = place.folder / "mine.mp4"
    film.write_bytes(b"mine")
    film.chmod(0o444)
    if output != film:
        output.symlink_to(film)

    def treated() -> None:
        assert film.read_bytes() == b"mine"

    return Case({"--output": output}, frames=None, treated=treated)


@case("output: write-protected video")
def write_protected(place):
    return protected(place, place.folder / "mine.mp4")


@case("output: link to a write-protected video")
def link_to_protected(place):
    return protected(place, place.folder / "link.mp4")


@case("output: named pipe")
def pipe(place):
    os.mkfifo(place.folder / "pipe.mp4")
    return Case({"--output": place.folder / "pipe.mp4"}, frames=None)


def on_full_disk(place: Place, *words: str) -> Case:
    """The disk has 30 bytes left for as long as the command runs."""
    options = place.words({})

    def read() -> None:
        with mock.patch("hallo3_core.film.output.free_bytes", lambda folder: 30):
            if main(["animate", *options, *words]):
                raise SystemExit(2)

    return Case(read=read)


@case("output: on a full disk")
def full_disk(place):
    return on_full_disk(place)


@case("output: on a full disk, with --no-resume")
def full_disk_without_resume(place):
    return on_full_disk(place, "--no-resume")


@case("output: name with blanks, colon and letters of all kinds")
def odd_name(place):
    path = place.folder / "scene 1: é 人 %d.mp4"

    def treated() -> None:
        assert len(read_film(path)[0]) == 5

    return Case({"--output": path}, frames=None, treated=treated)


def unchanged(path: Path, output: Path) -> Case:
    """A recording that the film would overwrite, and that is there afterwards as before."""
    content = path.read_bytes()

    def treated() -> None:
        assert path.read_bytes() == content and list(read_recording(path).waveform.shape)

    return Case({"--audio": path, "--output": output}, frames=None, treated=treated)


def talk(place: Place) -> Path:
    return encoded(place.folder / "talk.mp4", "aac", pictures=True)


@case("output: the recording")
def recording(place):
    return unchanged(talk(place), place.folder / "talk.mp4")


@case("output: the recording by another path")
def other_path(place):
    (place.folder / "sub").mkdir()
    return unchanged(talk(place), place.folder / "sub" / ".." / "talk.mp4")


@case("output: link to the recording")
def link_to_recording(place):
    os.symlink(talk(place), place.folder / "link.mp4")
    return unchanged(place.folder / "talk.mp4", place.folder / "link.mp4")


@case("output: hard link of the recording")
def hard_link(place):
    os.link(talk(place), place.folder / "link.mp4")
    return unchanged(place.folder / "talk.mp4", place.folder / "link.mp4")


@case("output: the portrait")
def portrait(place):
    (place.folder / "me.mp4").write_bytes(place.portrait.read_bytes())
    return Case({"--image": place.folder / "me.mp4", "--output": place.folder / "me.mp4"}, frames=None)


@case("output: its work folder holds the recording")
def inside_work(place):
    work = place.folder / "films" / ".film.mp4.work"
    work.mkdir(parents=True)
    sound = wav(work / "clip_00000.mkv", tone(0.2, 16_000), 16_000)
    return unchanged(sound, place.folder / "films" / "film.mp4")


@case("output: name in other bytes than UTF-8")
def no_utf8(place):
    folder = place.folder / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    path = folder / os.fsdecode(b"na\xefve.mp4")

    def treated() -> None:
        assert len(read_film(path)[0]) == 5 and list(folder.iterdir()) == [path]

    return Case({"--output": path}, frames=None, treated=treated)


@case("output: everything in folders whose names are not UTF-8")
def nothing_utf8(place):
    folder = place.folder / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    options = {"--output": folder / "film.mp4"}
    for option, source in (("--image", place.portrait), ("--audio", place.speech), ("--models", place.release)):
        options[option] = folder / os.fsdecode(os.fsencode(f"{option[2:]}{source.suffix}") + b"\xff")
        options[option].symlink_to(source)
    return Case(options, frames=None, treated=lambda: None if len(read_film(folder / "film.mp4")[0]) == 5 else 1 / 0)


def batch(place: Place, content: str | bytes, *options: object, films: tuple[str, ...] | None = None) -> Case:
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
    return Case(command=words, frames=None, treated=None if films is None else treated)


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
    batch_case = batch(place, LINE, films=())
    (place.folder / "jobs.txt").unlink()
    return batch_case


@case("batch: folder of videos not there")
def no_films(place):
    batch_case = batch(place, LINE)
    (place.folder / "films").rmdir()
    return batch_case


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


@case("batch: video of one line is the recording of another")
def chained(place):
    return batch(place, f"{LINE}\nHim.@@me.jpg@@films/0000.mp4", films=())


@case("batch: video of one line is a recording that is there")
def taken(place):
    def kept() -> None:
        batch_case.treated()
        assert read_recording(sound).samples

    batch_case = batch(place, f"{LINE}\n{LINE.replace('voice.wav', '0000.mp4')}", films=())
    sound = encoded(place.folder / "0000.mp4", "aac", pictures=True)
    batch_case.command[batch_case.command.index("--output-dir") + 1] = place.folder
    return replace(batch_case, treated=kept)


@case("batch: invalid path")
def no_path(place):
    return batch(place, "Him.@@me\0.jpg@@voice.wav", films=())
