"""A run that is killed at any moment and started again leaves the file of one that was not."""

from __future__ import annotations

import errno
import logging
import random
import signal
from dataclasses import replace

import pytest
import torch

from hallo3_core.errors import InputError
from hallo3_core.train import checkpoints
from hallo3_core.train.config import Stop, Watch
from hallo3_core.train.loop import train
from tests.train import toys
from tests.train.forked import Forked, prepare_to_fork

STEPS, KILLS = 12, 10
ALWAYS = Watch(log_every=1, validate_every=0, checkpoint_minutes=1e-9)


@pytest.fixture(scope="module")
def encoders():
    prepare_to_fork()
    return toys.encoders()


@pytest.fixture(scope="module")
def entries():
    return toys.entries()


@pytest.fixture
def work(encoders, entries):
    def of(config):
        return lambda on_step: train(config, encoders=encoders, entries=entries, on_step=on_step)

    return of


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_random_moments(work, tmp_path, processes):
    """Counted in calls of Python functions behind a step, not by a clock: the same on any machine."""
    config = toys.configuration(tmp_path / "killed", watch=ALWAYS, stop=Stop(steps=STEPS))
    whole = replace(config, output=tmp_path / "whole", watch=replace(ALWAYS, checkpoint_minutes=0))
    assert Forked(work(whole), processes).join() == [0] * processes
    moments, killed = random.Random(processes), 0
    while killed < KILLS:
        if not Forked(work(config), processes, dies=int(10 ** moments.uniform(0, 4))).outlived():
            break  # it came to its end: the rest of the moments lie behind it
        killed += 1
    assert killed >= KILLS // 2
    assert Forked(work(config), processes).join() == [0] * processes
    name = "hallo3_base.safetensors"
    assert (config.output / name).read_bytes() == (whole.output / name).read_bytes()


def test_sigterm_saves_and_the_same_command_goes_on(work, tmp_path):
    config = toys.configuration(tmp_path / "run", watch=replace(ALWAYS, checkpoint_minutes=60), stop=Stop(steps=STEPS))
    run = Forked(work(config))
    assert run.wait_for_steps(2)
    run.kill(signal.SIGTERM)
    assert run.join() == [143]
    assert len(list((config.output / "checkpoints").glob("step-*"))) == 1
    assert Forked(work(config)).join() == [0]
    whole = replace(config, output=tmp_path / "whole")
    assert Forked(work(whole)).join() == [0]
    name = "hallo3_base.safetensors"
    assert (config.output / name).read_bytes() == (whole.output / name).read_bytes()


def test_a_torn_checkpoint_is_passed_over(work, tmp_path, caplog):
    config = toys.configuration(tmp_path / "run", watch=ALWAYS, stop=Stop(steps=3))
    work(config)(lambda step: None)
    folder = config.output / "checkpoints"
    newest = sorted(folder.glob("step-*"))[-1]
    data = next(newest.glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:-10])
    with caplog.at_level(logging.WARNING):
        found = checkpoints.latest(folder)
    assert found[1]["step"] == 2
    warned = [r.message for r in caplog.records if r.name.startswith("hallo3_core") and r.levelno >= logging.WARNING]
    assert warned == [f"{newest}: skipped, as it is not whole ({data.name} is damaged or missing)"]


def test_a_run_goes_on_with_what_it_began_with(work, tmp_path, encoders):
    config = toys.configuration(tmp_path / "run", watch=ALWAYS, stop=Stop(steps=2))
    work(config)(lambda step: None)
    with pytest.raises(InputError, match="other data"):
        train(config, encoders=encoders, entries=toys.entries(4))
    with pytest.raises(InputError, match="batch 2, now 1"):
        work(replace(config, batch=1))(lambda step: None)


def test_a_full_disk_leaves_the_checkpoint_before(work, tmp_path, monkeypatch):
    config = toys.configuration(tmp_path / "run", watch=ALWAYS, stop=Stop(steps=2))
    save = torch.distributed.checkpoint.save

    def full(state, checkpoint_id, **others):
        save(state, checkpoint_id=checkpoint_id, **others)
        if calls.append(checkpoint_id) or len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    calls = []
    monkeypatch.setattr("torch.distributed.checkpoint.save", full)
    with pytest.raises(
        InputError, match="step 2 cannot be written .*No space left.*goes on from the checkpoint before"
    ):
        work(config)(lambda step: None)
    assert [path.name for path in (config.output / "checkpoints").iterdir()] == ["step-00000001"]
    work(config)(lambda step: None)


def test_a_full_disk_leaves_no_torn_cache(tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hallo3_core.train.stored.save_file", full)
    with pytest.raises(InputError, match="cannot be written .*No space left.*Free some room"):
        toys.entries(1, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
