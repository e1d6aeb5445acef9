"""Locks have one owner at a time and leave no files behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hallo3_core.cli.workers import claim
from hallo3_core.errors import InputError
from hallo3_core.film import locking
from hallo3_core.film.clip_chain import Clip
from hallo3_core.film.clip_store import FilmPlan, beside, work_on
from hallo3_core.film.locking import try_lock
from hallo3_core.film.work_folder import Keeping
from hallo3_core.film.writer import FilmWriter, read_film

ROOT = Path(__file__).parents[1]
HOLD = """
import sys
from pathlib import Path
from hallo3_core.film.locking import try_lock
lock = try_lock(Path(sys.argv[1]))
print(lock is not None, flush=True)
sys.stdin.read()  # until it is killed
"""


def test_the_second_gets_nothing_until_the_first_lets_go(tmp_path):
    first = try_lock(tmp_path / "lock")
    assert try_lock(tmp_path / "lock") is None
    first.release()
    first.release()
    second = try_lock(tmp_path / "lock")
    assert second is not None
    first.release()  # of a lock that another run owns by now
    assert try_lock(tmp_path / "lock") is None
    second.release()


@pytest.mark.skipif(sys.platform == "win32", reason="an open file stays there")
def test_nothing_is_left(tmp_path):
    try_lock(tmp_path / "lock").release()
    assert not list(tmp_path.iterdir())


def test_a_lock_dies_with_its_process(tmp_path):
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as holder:
        assert holder.stdout.readline() == "True\n"
        assert try_lock(path) is None
        holder.kill()
    assert path.exists()
    lock = try_lock(path)
    assert lock is not None
    lock.release()


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed there")
def test_a_lock_whose_file_was_removed_meanwhile_is_not_taken(tmp_path, monkeypatch):
    """The owner removes the file after we open it and before we lock it, so we would lock an unlinked file."""
    original, first = locking._lock, [True]

    def lock(descriptor):
        if first.pop() if first else False:
            os.unlink(tmp_path / "lock")
        return original(descriptor)

    monkeypatch.setattr(locking, "_lock", lock)
    lock = try_lock(tmp_path / "lock")
    assert (tmp_path / "lock").exists() and try_lock(tmp_path / "lock") is None
    lock.release()


NO_LOCKS = ("ENOSYS", "ENOLCK", "EOPNOTSUPP", "EINVAL", "EPERM", "EIO", "EBADF", "ESTALE")


@pytest.mark.skipif(sys.platform == "win32", reason="locks there are another call")
@pytest.mark.parametrize("name", NO_LOCKS)
def test_a_disk_without_locks_is_not_another_run(tmp_path, monkeypatch, caplog, name):
    """On Lustre and on some NFS and SMB disks, every lock fails. The run continues and warns once."""

    def flock(descriptor, operation):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(locking.fcntl, "flock", flock)
    monkeypatch.setattr(locking, "_without_locks", set())
    locks = [try_lock(tmp_path / "lock"), try_lock(tmp_path / "other")]
    assert all(locks) and len(caplog.records) == 1
    assert "this disk has no file locks" in caplog.text and os.strerror(getattr(errno, name)) in caplog.text
    for lock in locks:
        lock.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["EWOULDBLOCK", "EAGAIN", "EACCES"])
def test_what_a_held_lock_answers_is(tmp_path, monkeypatch, caplog, name):
    def lock(descriptor):
        raise OSError(getattr(errno, name), "held")

    monkeypatch.setattr(locking, "_lock", lock)
    assert try_lock(tmp_path / "lock") is None and not caplog.records


def test_a_film_is_made_where_there_are_no_locks_and_no_syncs(tmp_path, monkeypatch):
    """The work folder, a batch's claim and their files work on a disk without locks and syncs."""

    def lacking(*arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")

    for name in ("os.fsync", "shutil.disk_usage", "hallo3_core.film.locking._lock"):
        monkeypatch.setattr(name, lacking)
    output = tmp_path / "film.mp4"
    plan = FilmPlan(str(output), 1, 16, 16, {"portrait": "1"})
    with claim(output) as ours, work_on(beside(output), plan, Keeping.ALWAYS, "", lambda text: None) as (part, store):
        store.save(0, Clip(torch.zeros(2, 16, 16, 3, dtype=torch.uint8), torch.zeros(1)))
        with FilmWriter(output, 16, 16, part=part) as film:
            film.write(store.load(0).frames)
    assert ours and len(read_film(output)[0]) == 2


def test_a_full_disk_is_still_reported(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left"), FilmWriter(tmp_path / "film.mp4", 16, 16) as film:
        film.write(torch.zeros(2, 16, 16, 3, dtype=torch.uint8))


def test_where_no_file_can_be_is_an_error(tmp_path):
    with pytest.raises(OSError):
        try_lock(tmp_path / "none" / "lock")
