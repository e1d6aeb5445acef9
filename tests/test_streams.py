"""The film is made, with exit code 0, even if stdout or stderr cannot be written."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from hallo3_core.cli.main import main, say
from hallo3_core.cli.streams import Once, Tolerant, tolerant_streams
from hallo3_core.film.writer import read_film

ROOT = Path(__file__).parents[1]
NAME = "映画 é"


@pytest.fixture
def words(tmp_path, portrait, short_speech, tiny_release):
    (tmp_path / NAME).mkdir()
    inputs = {
        "--image": portrait,
        "--audio": short_speech,
        "--prompt": "A person talks.",
        "--models": tiny_release,
        "--output": tmp_path / NAME / "film.mp4",
        "--size": "16x16",
        "--steps": "1",
        "--device": "cpu",
    }
    return ["animate", *(str(word) for pair in inputs.items() for word in pair)]


def film(words) -> Path:
    return Path(words[words.index("--output") + 1])


class Closed(io.StringIO):
    """A pipe without a reader."""

    def write(self, *text):
        raise BrokenPipeError(32, "Broken pipe")

    flush = fileno = write


def narrow() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="cp1252", write_through=True)


def closed_file() -> io.TextIOWrapper:
    stream = narrow()
    stream.close()
    return stream


STREAMS = {"narrow": narrow, "closed pipe": Closed, "closed": closed_file, "none": lambda: None}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_film_is_made_whatever_the_streams_are(words, monkeypatch, kind):
    streams = [STREAMS[kind](), STREAMS[kind]()]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    assert main(words) == 0
    assert [sys.stdout, sys.stderr] == streams
    assert len(read_film(film(words))[0]) == 8
    if kind == "narrow":
        said = streams[0].buffer.getvalue().decode("cp1252")
        assert "\\u6620\\u753b é" in said and "8 frames" in said


@pytest.mark.parametrize("arguments", [["--help"], [], ["animate"], ["animate", "--help"], ["inspect", NAME]])
@pytest.mark.parametrize("kind", STREAMS)
def test_help_and_mistakes_end_as_ever(monkeypatch, kind, arguments):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, STREAMS[kind]())
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == (0 if "--help" in arguments else 2)


def test_a_stream_that_failed_is_not_asked_again():
    written = []

    class Failing:
        encoding = "utf-8"

        def write(self, text):
            written.append(text)
            raise OSError(28, "No space left on device")

    stream = Tolerant(Failing())
    assert [stream.write("a"), stream.write("bc")] == [1, 2] and written == ["a"] and not stream.isatty()


def test_what_no_encoding_holds_is_spelt(capsys):
    with tolerant_streams():
        say("name \udcff")
    assert capsys.readouterr().out == "name \\udcff\n"


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are closed by a shell")
@pytest.mark.parametrize("how", [">&- 2>&- <&-", "2>&1 | head -c 1"])
def test_a_process_with_such_streams_makes_its_film_and_ends_well(words, how):
    """The film must not reuse a closed stdout or stderr descriptor, or FFmpeg's messages would be written into it."""
    quoted = " ".join(f"'{word}'" for word in [sys.executable, "-m", "hallo3_core", *words])
    script = f"set -o pipefail; {quoted} {how}"
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
    assert len(read_film(film(words))[0]) == 8


def test_a_message_is_written_once_and_others_each():
    once, kept = Once(), []
    for text, argument in (("%s is silent", "a"), ("%s is silent", "b"), ("%s is silent", "a"), ("other", None)):
        record = logging.LogRecord("x", logging.WARNING, "", 0, text, (argument,) if argument else None, None)
        kept += [record.getMessage()] if once.filter(record) else []
    assert kept == ["a is silent", "b is silent", "other"]


def test_a_film_of_silence_says_so_once(words, tmp_path, caplog):
    """Reading, encoding and writing each check the audio, but only one warning appears."""
    with wave.open(str(tmp_path / "hush.wav"), "wb") as file:
        file.setparams((2, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(12_800))
    words[words.index("--audio") + 1] = str(tmp_path / "hush.wav")
    assert main(words) == 0
    assert [record.getMessage() for record in caplog.records if "silent" in record.getMessage()] == [
        "hush.wav is silent: the portrait will hardly move its mouth."
    ]
