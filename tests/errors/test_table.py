"""Runs every row of docs/errors.md: makes its input, runs the command line on it, and compares the outcome."""

from __future__ import annotations

import importlib.util
import re
import sys
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hallo3_core.cli.main import main
from hallo3_core.errors import InputError
from hallo3_core.film.writer import read_film

HERE = Path(__file__).parent
TABLE = HERE.parents[1] / "docs" / "errors.md"
OLD = b"an older film"


def load_cases():
    """The package beside this file, whose name no other folder of tests may take."""
    folder = HERE / "cases"
    spec = importlib.util.spec_from_file_location(
        "error_cases", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules["error_cases"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    case: str  # "input: case", the name of its builder
    happens: str
    code: int

    @property
    def words(self) -> list[str]:
        """What is said: the parts between backticks."""
        return re.findall(r"`([^`]+)`", self.happens)


def read_rows() -> list[Row]:
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert lines[0].split("|")[1:-1] == [" input ", " case ", " what happens ", " exit "]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    return [Row(f"{kind}: {case}", happens, int(code)) for kind, case, happens, code in rows]


ROWS = read_rows()
cases = load_cases()


def test_every_row_has_a_builder_and_every_builder_a_row():
    named = [row.case for row in ROWS]
    assert len(named) == len(set(named)) >= 60
    assert set(named) == set(cases.CASES)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)
def test_a_row_says_how_it_ends(row):
    assert row.happens.startswith({0: "accepted", 2: "rejected"}[row.code])
    assert row.code == 0 or len(row.words) == 1, "a rejection has one message"


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    """0.2 s at 16 kHz."""
    path = tmp_path_factory.mktemp("sound") / "voice.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((9000 * np.sin(np.arange(3200) / 12)).astype("<i2").tobytes())
    return path


@pytest.fixture
def place(tmp_path, portrait, speech, tiny_release):
    return cases.Place(tmp_path, portrait, speech, tiny_release)


def run(place, case) -> int:
    """The exit code of a case."""
    try:
        if case.read is not None:
            case.read()
            return 0
        words = case.command or ["animate", *place.words(case.options)]
        return main([str(word) for word in words])
    except SystemExit as stop:  # argparse's own
        return stop.code


@pytest.mark.skipif(sys.platform == "win32", reason="some cases are links, or names that Windows refuses")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)
def test_what_happens_is_what_the_table_says(row, place, capsys, caplog):
    case = cases.CASES[row.case](place)
    if case.frames is not None:
        place.output.write_bytes(OLD)
    code = run(place, case)
    said = "".join(capsys.readouterr())
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert (code, "Traceback" in said) == (row.code, False), said
    assert not list(place.folder.glob("*.part*")) and not list(place.folder.glob(".*"))
    if code == 0:
        assert not errors
        assert all(words in caplog.text for words in row.words), caplog.text
        if case.frames is not None:
            assert len(read_film(place.output)[0]) == case.frames
    else:
        assert len(errors) <= 1 and row.words[0] in said, said
        assert case.frames is None or place.output.read_bytes() == OLD
    if case.treated is not None:
        case.treated()


def test_a_reader_refuses_with_the_same_words(place):
    """Where a row runs a reader alone, an InputError stands for exit 2; the command line makes it so."""
    with pytest.raises(InputError):
        from hallo3_core.inputs.recording import read_recording

        read_recording(place.folder)
    assert run(place, cases.Case({"--audio": place.folder})) == 2
