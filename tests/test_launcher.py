"""The command line works from any folder, also with a Python that does not search the current folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hallo3_core.errors import LAUNCHER, own_command

ROOT = Path(__file__).parents[1]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("flags", [(), ("-I",), ("-P",), ("-s",)])
def test_the_launcher_works_from_any_folder_and_in_isolation(tmp_path, flags):
    """ComfyUI's portable build for Windows sets `-I` and `-P` through a file beside its Python."""
    result = run(tmp_path, *flags, str(ROOT / "hallo3.py"), "samples", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "hallo3_speech.flac").is_file()


def test_a_mistake_is_answered_in_a_line_and_with_2(tmp_path):
    result = run(tmp_path, "-I", str(ROOT / "hallo3.py"), "samples", str(tmp_path / "none"))
    assert result.returncode == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_it_is_another_matter_with_python_m(tmp_path):
    """`python -m` fails there, which is why the launcher exists."""
    assert "No module named" in run(tmp_path, "-I", "-m", "hallo3_core", "--help").stderr


def test_the_command_that_messages_give_is_one_that_runs(tmp_path):
    assert own_command("samples", "a b") == f'{sys.executable} {LAUNCHER} samples "a b"'
    assert LAUNCHER.is_file() and LAUNCHER == ROOT / "hallo3.py"
