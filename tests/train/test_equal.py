"""What must not change the result: checkpointed layers, micro-batches, processes, and where samples are kept."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from hallo3_core.train.config import Memory, Stop, Watch
from hallo3_core.train.draw import Chances, draw
from hallo3_core.train.draws import Keyed
from hallo3_core.train.loop import TrainingRun, train
from hallo3_core.train.lora import GROUPS, Lora
from hallo3_core.train.optimiser import Rates
from hallo3_core.train.processes import join
from hallo3_core.train.samples import Mapped, Order, Resident
from hallo3_core.train.step import step
from hallo3_core.weights.reading import read_tensors
from tests.train import toys
from tests.train.forked import Forked, prepare_to_fork

EACH = Watch(log_every=1, validate_every=0, checkpoint_minutes=0)


@pytest.fixture(scope="module")
def encoders():
    prepare_to_fork()
    return toys.encoders()


@pytest.fixture(scope="module")
def entries():
    return toys.entries()


@pytest.fixture(scope="module")
def start(tmp_path_factory, encoders, entries):
    """An identity result, so that a run has every network."""
    folder, path = tmp_path_factory.mktemp("start"), None
    for mode in ("base", "identity", "audio"):
        config = toys.configuration(folder / mode, mode, start=path, stop=Stop(steps=1))
        path = train(config, encoders=encoders, entries=entries).path
    return path


def gradients(config, encoders, entries):
    """The first step's, before the clip, and its losses."""
    run = TrainingRun(config, join("cpu", config.batch), None, encoders, entries)
    run.step = 1
    kept = {}
    run.updater.update = lambda rate: kept.update(zip(run.updater.names, run.updater._gradients, strict=True)) or 0.0
    run._step(0.0, logs=False)
    return kept, run.losses.take(lambda t: t)["loss"]


def test_checkpointed_layers_and_offloaded_activations_give_equal_gradients(tmp_path, encoders, entries, start):
    config = toys.configuration(tmp_path, "speech", start=start)
    plain, _ = gradients(config, encoders, entries)
    for memory in (Memory(checkpoint_layers=True), Memory(offload_activations=True)):
        other, _ = gradients(replace(config, memory=memory), encoders, entries)
        assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_micro_batches(tmp_path, encoders, entries, start):
    config = toys.configuration(tmp_path, "speech", start=start, batch=4)
    whole, loss = gradients(config, encoders, entries)
    parts, parts_loss = gradients(replace(config, memory=Memory(micro_batch=1)), encoders, entries)
    assert parts_loss == pytest.approx(loss, abs=1e-6)
    for name, gradient in whole.items():
        assert (gradient - parts[name]).abs().max() <= 1e-6 * max(1.0, gradient.abs().max())


def test_one_process_and_two(tmp_path, encoders, entries, start):
    losses = []
    for count in (1, 2):
        config = toys.configuration(
            tmp_path / str(count), "speech", start=start, batch=4, watch=EACH, stop=Stop(steps=5)
        )
        work = lambda on_step, config=config: train(config, encoders=encoders, entries=entries)  # noqa: E731
        assert Forked(work, count).join() == [0] * count
        lines = (config.output / "log.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert len(losses[0]) == 5
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_a_lora_in_one_process_and_two(tmp_path, encoders, entries, start):
    """The same losses, and the same file up to rounding; every process has its shard of each pair."""
    losses, files = [], []
    for count in (1, 2):
        lora = Lora(tuple(GROUPS), rank=3, alpha=3.0)
        config = toys.configuration(
            tmp_path / str(count), "lora", start=start, batch=2, watch=EACH, stop=Stop(steps=3), lora=lora
        )
        config = replace(config, rates=Rates(1e-2, 0, 0))
        work = lambda on_step, config=config: train(config, encoders=encoders, entries=entries)  # noqa: E731
        assert Forked(work, count).join() == [0] * count
        lines = (config.output / "log.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
        files.append(read_tensors(config.output / "lora.safetensors"))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert files[0].keys() == files[1].keys()
    for name, value in files[0].items():
        assert torch.allclose(value, files[1][name], atol=1e-5), name
    assert any(value.any() for name, value in files[0].items() if ".lora_B." in name)


def test_a_batch_is_its_samples_side_by_side(tmp_path, encoders, entries, start):
    """What a sample sees and costs doesn't depend on its neighbours."""
    run = TrainingRun(toys.configuration(tmp_path, "speech", start=start), join("cpu", 2), None, encoders, entries)
    clips = torch.tensor([0, 3, 1])

    def losses(part):
        draws = Keyed(0, 1, 3, part)
        inputs = draw(run.samples.batch(clips[part], draws), encoders.vae, draws, Chances(drop_text=0.5))
        with torch.no_grad():
            return step(run.networks, inputs).loss

    alone = torch.cat([losses(slice(n, n + 1)) for n in range(3)])
    assert torch.allclose(losses(slice(3)), alone, atol=1e-6)


def test_samples_on_the_device_and_in_files(tmp_path):
    entries = toys.entries(3, tmp_path)
    again = toys.entries(3, tmp_path)
    resident, mapped = Resident(entries, "cpu"), Mapped(again, "cpu")
    assert resident.count == mapped.count == 6
    clips = Order(6, seed=3).of(4, 9)
    a, b = (samples.batch(clips, Keyed(0, 1, 5)) for samples in (resident, mapped))
    assert a.weight is None and b.weight is None
    for name, value in vars(a).items():
        assert value is None or torch.equal(value, getattr(b, name)), name


def test_every_clip_once_an_epoch():
    order = Order(7, seed=1)
    first, second = order.of(0, 7), order.of(7, 14)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(7))
    assert first.tolist() != second.tolist()
    assert order.of(5, 9).tolist() == [*first[5:].tolist(), *second[:2].tolist()]
