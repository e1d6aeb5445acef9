"""What a run must not do in silence: count samples twice, keep what diverged, or forget what it was asked."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hallo3_core.errors import InputError
from hallo3_core.train import checkpoints
from hallo3_core.train.config import Memory, Stop, Watch, checked, read
from hallo3_core.train.interrupting import asked_to_stop
from hallo3_core.train.loop import UNUSABLE, TrainingRun, train
from hallo3_core.train.optimiser import Rates, Updating
from hallo3_core.train.processes import Processes, join
from hallo3_core.train.updater import Updater
from tests.train import toys

KEPT = Watch(log_every=1, validate_every=0, checkpoint_minutes=60)


@pytest.fixture(scope="module")
def encoders():
    return toys.encoders()


@pytest.fixture(scope="module")
def entries():
    return toys.entries()


def steps_logged(folder) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]


@given(count=st.integers(1, 4), each=st.integers(1, 12), micro=st.none() | st.integers(1, 12))
def test_every_sample_of_a_batch_is_computed_once(count, each, micro):
    batch, device = count * each, torch.device("cpu")
    pieces = [p for rank in range(count) for p in Processes(rank, count, device).pieces(batch, micro)]
    assert [n for piece in pieces for n in range(piece.start, piece.stop)] == list(range(batch))
    assert all(piece.stop - piece.start <= (micro or each) for piece in pieces)


def test_a_gradient_that_is_not_finite_changes_nothing():
    parameter = torch.nn.Parameter(torch.ones(3))
    updater = Updater({"p": parameter}, Updating(average=0.9))
    for value in (1.0, float("nan"), float("inf")):
        before = [parameter.detach().clone(), updater.average[0].clone(), updater.updates]
        parameter.grad = torch.full((3,), value)
        updater.collect()
        norm = updater.update(0.1)
        changed = not torch.equal(before[0], parameter) and updater.updates > before[2]
        assert changed is bool(torch.isfinite(torch.tensor(norm))) is (value == 1.0)
        assert torch.equal(before[1], updater.average[0]) is not changed


@pytest.mark.parametrize("log_every", [0, 1, 20])
@pytest.mark.parametrize("steps", [3, 30])
def test_a_run_that_diverged_writes_no_result_and_no_checkpoint(tmp_path, encoders, entries, log_every, steps):
    watch = Watch(log_every=log_every, validate_every=0, checkpoint_minutes=1e-9)
    rates = Rates(peak=1e30, warmup_steps=0, slow_steps=0)
    config = toys.configuration(tmp_path, rates=rates, watch=watch, stop=Stop(steps))
    with pytest.raises(InputError, match="so the run has diverged. No result and no checkpoint was written of it"):
        train(config, encoders=encoders, entries=entries)
    assert not list(tmp_path.glob("*.safetensors"))
    found = checkpoints.latest(tmp_path / "checkpoints")
    assert found is None or found[1]["step"] < min(steps, UNUSABLE)


def test_validation_is_of_what_is_written_and_does_not_depend_on_the_batch(tmp_path, encoders, entries):
    config = toys.configuration(tmp_path, "base")
    others = (config, replace(config, batch=4), replace(config, memory=Memory(micro_batch=1)))
    runs = [TrainingRun(each, join("cpu", each.batch), None, encoders, entries) for each in others]
    first, *same = (run.validate() for run in runs)
    assert same == [first, first] and all(each is not None for each in first.by_decile)
    updater = runs[0].updater
    torch._foreach_add_(updater.average, 0.1)
    masters = [master.clone() for master in updater.masters]
    averaged = runs[0].validate()
    assert averaged != first
    assert all(map(torch.equal, masters, updater.masters)), "training goes on with its own weights"
    updater.write(updater.average)
    updater.average = None
    assert runs[0].validate() == averaged


def test_validation_says_what_sound_is_worth(tmp_path, encoders, entries):
    start = train(toys.configuration(tmp_path / "base"), encoders=encoders, entries=entries).path
    identity = toys.configuration(tmp_path / "identity", "identity", start=start)
    start = train(identity, encoders=encoders, entries=entries).path
    run = TrainingRun(toys.configuration(tmp_path, "audio", start=start), join("cpu", 2), None, encoders, entries)
    with torch.no_grad():
        for name, parameter in run.networks.named_parameters():
            if "audio" in name:
                parameter.add_(0.1)
    run.updater.average = None
    found = run.validate()
    assert found.null_loss is not None and found.sound_gain == pytest.approx(1 - found.loss / found.null_loss)
    assert found.sound_gain != 0 and "validation_sound_gain" in found.values()


def test_more_steps_go_on_and_a_finished_run_is_left_alone(tmp_path, encoders, entries):
    config = toys.configuration(tmp_path, watch=KEPT, stop=Stop(2))
    result = train(config, encoders=encoders, entries=entries).path
    written = result.read_bytes()
    train(config, encoders=encoders, entries=entries)
    assert steps_logged(tmp_path) == [1, 2] and result.read_bytes() == written
    train(replace(config, stop=Stop(4)), encoders=encoders, entries=entries)
    assert steps_logged(tmp_path) == [1, 2, 3, 4]
    straight = toys.configuration(tmp_path / "straight", watch=KEPT, stop=Stop(4), rates=Rates(1e-3, 2, 0, last=1.0))
    again = replace(straight, output=tmp_path / "again")
    train(replace(again, stop=Stop(2)), encoders=encoders, entries=entries)
    (tmp_path / "again" / result.name).unlink()  # a result that was lost costs no steps
    assert train(replace(again, stop=Stop(2)), encoders=encoders, entries=entries).path.exists()
    both = [train(each, encoders=encoders, entries=entries).path.read_bytes() for each in (straight, again)]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"updating": Updating(clip=1.0, average=0.5)},
        {"updating": Updating(clip=1.0, average=0.99, weight_decay=0.5)},
    ],
)
def test_another_run_in_the_same_folder_is_refused_and_leaves_its_configuration(tmp_path, encoders, entries, change):
    config = toys.configuration(tmp_path, watch=KEPT, stop=Stop(2))
    result = train(config, encoders=encoders, entries=entries).path
    kept = [path.read_bytes() for path in (result, tmp_path / "resolved.yaml")]
    with pytest.raises(InputError, match="belongs to a run with"):
        train(replace(config, **change), encoders=encoders, entries=entries)
    assert [path.read_bytes() for path in (result, tmp_path / "resolved.yaml")] == kept


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGTERM)])
def test_a_signal_ends_the_run_between_steps_and_is_named(number):
    with asked_to_stop() as stop:
        assert stop() == 0
        os.kill(os.getpid(), number)
        assert stop() == number


def test_folders_that_cannot_be_synced_do_not_end_a_run(tmp_path, monkeypatch):
    """As on Windows, which opens no folders, and on some network disks."""
    real = os.open

    def without_folders(path, *more, **others):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *more, **others)

    monkeypatch.setattr(os, "open", without_folders)
    state, alone = {"a": torch.ones(3)}, Processes(0, 1, torch.device("cpu"))
    checkpoints.save(tmp_path, 1, state, {}, alone, 2)
    assert checkpoints.latest(tmp_path)[1]["step"] == 1


def test_everything_is_on_disk_before_a_checkpoint_has_its_name(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(checkpoints, "to_disk", lambda file: flushed.append(os.path.basename(file.name)))
    monkeypatch.setattr(checkpoints, "folder_to_disk", lambda folder: flushed.append(folder.name))
    checkpoints.save(tmp_path, 1, {"a": torch.ones(3)}, {}, Processes(0, 1, torch.device("cpu")), 2)
    names = {path.name for path in (tmp_path / "step-00000001").iterdir()}
    assert names <= set(flushed) and flushed[-1] == checkpoints.UNFINISHED


def test_a_checkpoint_of_other_tensors_is_one_sentence(tmp_path):
    alone = Processes(0, 1, torch.device("cpu"))
    checkpoints.save(tmp_path, 1, {"a": torch.ones(3)}, {}, alone, 2)
    for other in ({"b": torch.ones(3)}, {"a": torch.ones(4)}):
        with pytest.raises(InputError, match="is a checkpoint of other networks or another mode"):
            checkpoints.load(tmp_path / "step-00000001", other, alone)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("stop.seconds=0", "stop.seconds"),
        ("stop.seconds=-1", "stop.seconds"),
        ("updating.betas=[1,2]", "updating.betas.0"),
        ("updating.betas=[0.9,1.5]", "updating.betas.1"),
        ("updating.eps=-1", "updating.eps"),
        ("updating.average=1.5", "updating.average"),
        ("updating.weight_decay=-1", "updating.weight_decay"),
        ("updating.clip=.nan", "updating.clip"),
        ("data.held_out=-1", "data.held_out"),
        ("watch.checkpoints=-1", "watch.checkpoints"),
        ("watch.log_every=-1", "watch.log_every"),
        ("rates.warmup_steps=-1", "rates.warmup_steps"),
        ("rates.decay_from=2", "rates.decay_from"),
        ("rates.peak=.nan", "rates.peak"),
        ("rates.peak=.inf", "rates.peak"),
        ("memory.micro_batch=0", "memory.micro_batch"),
        ("stop.steps=[1", "--set stop.steps=.1"),
    ],
)
def test_senseless_values_are_refused_by_name(tmp_path, change, key):
    path = tmp_path / "run.yaml"
    path.write_text("mode: speech\n")
    with pytest.raises(InputError, match=f"{key}"):
        read(path, [change])


def test_the_defaults_are_sensible():
    checked(toys.configuration("out"))
