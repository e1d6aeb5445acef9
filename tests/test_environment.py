"""Numbers that torchrun sets in the environment."""

from __future__ import annotations

import pytest

from hallo3_core.cli.main import main
from hallo3_core.errors import InputError
from hallo3_core.parallel.team import is_launched, take_gpu
from hallo3_core.runtime.environment import has, number

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_set_and_empty_is_not_set(monkeypatch, text):
    for name in NAMES:
        monkeypatch.setenv(name, text)
    assert number("RANK", 7) == 7 and not has("RANK") and not is_launched()
    take_gpu("auto")


def test_a_number_is_read_and_other_words_are_refused(monkeypatch):
    monkeypatch.setenv("RANK", " 3 ")
    assert number("RANK", 0) == 3 and has("RANK")
    for text in ("-1", "1.5", "two"):
        monkeypatch.setenv("RANK", text)
        with pytest.raises(InputError, match=f"the environment's RANK is '{text}', expected a whole number"):
            number("RANK", 0)


def test_a_batch_runs_with_empty_variables(monkeypatch, tmp_path, capsys):
    for name in NAMES:
        monkeypatch.setenv(name, "")
    assert main(["batch", str(tmp_path / "none.txt"), "--output-dir", str(tmp_path), "--models", "none"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["batch"])
    assert "error: " in capsys.readouterr().err, "an empty RANK is rank 0, which speaks"
