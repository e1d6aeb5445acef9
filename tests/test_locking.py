"""One owner at a time, and none left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hallo3_core.film.locking import try_lock

ROOT = Path(__file__).parents[1]
HOLD = """
import sys, time
from pathlib import Path
from hallo3_core.film.locking import try_lock
lock = try_lock(Path(sys.argv[1]))
print(lock is not None, flush=True)
time.sleep(600)
"""


def test_the_second_gets_nothing_until_the_first_lets_go(tmp_path):
    first = try_lock(tmp_path / "lock")
    assert try_lock(tmp_path / "lock") is None
    first.release()
    first.release()
    second = try_lock(tmp_path / "lock")
    assert second is not None
    first.release()  # of one that is another's by now
    assert try_lock(tmp_path / "lock") is None
    second.release()


@pytest.mark.skipif(sys.platform == "win32", reason="an open file stays there")
def test_nothing_is_left(tmp_path):
    try_lock(tmp_path / "lock").release()
    assert not list(tmp_path.iterdir())


def test_a_lock_dies_with_its_process(tmp_path):
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "True\n"
        assert try_lock(path) is None
        holder.kill()
    assert path.exists()
    lock = try_lock(path)
    assert lock is not None
    lock.release()


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed there")
def test_a_lock_whose_file_was_removed_meanwhile_is_not_taken(tmp_path, monkeypatch):
    """The owner removes the file between our opening it and locking it: we would hold a file without a name."""
    import hallo3_core.film.locking as locking

    original, first = locking._lock, [True]

    def lock(descriptor):
        if first.pop() if first else False:
            os.unlink(tmp_path / "lock")
        return original(descriptor)

    monkeypatch.setattr(locking, "_lock", lock)
    lock = try_lock(tmp_path / "lock")
    assert (tmp_path / "lock").exists() and try_lock(tmp_path / "lock") is None
    lock.release()


def test_where_no_file_can_be_is_an_error(tmp_path):
    with pytest.raises(OSError):
        try_lock(tmp_path / "none" / "lock")
