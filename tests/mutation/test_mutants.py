"""The mutants of the clip arithmetic, all found; those of the other modules take minutes and are run by hand."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("mutants.py")


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="each mutant is a fork")
def test_every_mutant_of_the_clip_arithmetic_is_found():
    done = subprocess.run([sys.executable, str(SCRIPT), "clips"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "clips: " in done.stdout and " 0 alive" in done.stdout


def test_a_mutant_is_one_change():
    spec = importlib.util.spec_from_file_location("mutants", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    source = 'def f(a: int = 1):\n    """Text."""\n    return a < 2 if a else -a\n'
    found = {f"{mutant.before} -> {mutant.after}" for mutant in module.mutants(source)}
    expected = {"1 -> 2", "1 -> 0", "2 -> 3", "2 -> 1", "a < 2 -> a <= 2", "a < 2 -> a >= 2", "-a -> a"}
    expected |= {"a < 2 if a else -a -> a < 2", "a < 2 if a else -a -> -a"}
    assert found == {*expected, "return a < 2 if a else -a -> return None"}
