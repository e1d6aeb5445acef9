"""The switches of the section memory, and the plan that counts what they save."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from hallo3_core.cli.main import main
from hallo3_core.errors import InputError, pip_command
from hallo3_core.train import checkpoints, runs
from hallo3_core.train import plan as planning
from hallo3_core.train.config import Memory, Stop, TrainingConfig, Watch, read
from hallo3_core.train.frozen_fp8 import FrozenLinear, rounded
from hallo3_core.train.loop import TrainingRun, train
from hallo3_core.train.lora import Lora, file_tensors
from hallo3_core.train.optimiser import Updating, make_optimiser
from hallo3_core.train.plan import fit, plan
from hallo3_core.train.processes import join
from hallo3_core.weights.reading import read_tensors
from tests.train import toys


def test_gradients_go_through_a_frozen_fp8_layer():
    torch.manual_seed(0)
    layer = nn.Linear(12, 8)
    small = rounded(layer)
    assert isinstance(small, FrozenLinear) and small.weight.element_size() == 1
    x = torch.randn(3, 12, requires_grad=True)
    small(x).square().sum().backward()
    weight = small.full_weight(torch.float32)
    expected = 2 * (x @ weight.T + layer.bias) @ weight
    assert torch.allclose(x.grad, expected, atol=1e-5)
    assert (weight - layer.weight).abs().max() <= layer.weight.abs().max() / 16


@pytest.fixture(scope="module")
def encoders():
    return toys.encoders()


@pytest.fixture(scope="module")
def entries():
    return toys.entries()


@pytest.fixture(scope="module")
def identity(tmp_path_factory, encoders, entries):
    folder, path = tmp_path_factory.mktemp("start"), None
    for mode in ("base", "identity"):
        config = toys.configuration(folder / mode, mode, start=path)  # 4 steps: gates are zero at first
        path = train(config, encoders=encoders, entries=entries).path
    return path


def test_training_beside_frozen_fp8_leaves_the_frozen_tensors_as_they_were(tmp_path, encoders, entries, identity):
    config = toys.configuration(tmp_path, "audio", start=identity, memory=Memory(fp8=True))
    result = train(config, encoders=encoders, entries=entries)
    before, after = read_tensors(identity), read_tensors(result.path)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any("audio_attn" in name for name in after)


def test_a_lora_beside_frozen_fp8(tmp_path, encoders, entries, identity):
    """A whole run: the layers that it wraps are fp8 too, its file holds the LoRA alone, and memory is what it saves."""
    path = train(
        toys.configuration(tmp_path / "audio", "audio", start=identity), encoders=encoders, entries=entries
    ).path
    lora, switches = Lora(("look", "identity", "speech"), 2, 2.0), Memory(fp8=True, checkpoint_layers=True)
    config = toys.configuration(tmp_path / "lora", "lora", start=path, memory=switches, lora=lora)
    run = TrainingRun(config, join("cpu", 2), None, encoders, entries)
    block = run.networks.denoiser.blocks[0]
    assert isinstance(block.self_attention.qkv.base_layer, FrozenLinear)
    assert isinstance(block.mlp.up, FrozenLinear)
    before = {name: master.clone() for name, master in zip(run.updater.names, run.updater.masters, strict=True)}
    result = train(config, encoders=encoders, entries=entries)
    assert result.steps == 4 and result.loss < float("inf")
    after = file_tensors(before, lora, torch.float32)
    found = read_tensors(result.path)
    assert found.keys() == after.keys() and all(name.endswith((".weight", ".alpha")) for name in found)
    changed = {name for name, value in found.items() if not torch.equal(value, after[name])}
    assert {name for name in found if ".lora_B." in name} <= changed


def test_dry_run(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("mode: full\nnetwork: {hidden: 64, heads: 4, layers: 2, time: 16}\ndata: {size: [32, 48]}\n")
    assert main(["train", str(path), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "identity: trains" in said and "audio: trains" in said and "can get no gradient" in said
    assert "attention.query_key_value.weight: 2 tensors" in said and "GB  moments of AdamW" in said


def test_ready_configurations_are_such():
    found = sorted(Path(runs.__path__[0]).glob("*.yaml"))
    assert len(found) == 6
    assert {read(path).mode for path in found} == {"lora", "speech", "identity", "audio"}


@pytest.mark.parametrize(("name", "gigabytes"), [("person-24gb", 24), ("language-48gb", 48), ("language-80gb", 80)])
def test_ready_configurations_fit(name, gigabytes):
    assert plan(read(Path(runs.__path__[0]) / f"{name}.yaml")).total < 0.95e9 * gigabytes


EIGHT_BIT = [name for name in ("torchao", "bitsandbytes") if importlib.util.find_spec(name)]


@pytest.mark.skipif(bool(EIGHT_BIT), reason=f"{EIGHT_BIT} is installed")
def test_the_8_bit_optimiser_says_what_to_install():
    parameters = [torch.zeros(256, 64)]
    with pytest.raises(InputError) as refused:
        make_optimiser(parameters, [p.shape for p in parameters], Updating(), "adamw8bit")
    command = pip_command("install", "bitsandbytes")
    assert str(refused.value) == (
        f"the 8-bit optimiser needs the package bitsandbytes. Run {command}, and start again."
    )


@pytest.mark.skipif(not EIGHT_BIT, reason="neither torchao nor bitsandbytes is installed")
def test_the_8_bit_optimiser_learns_as_adamw_does_and_goes_on_where_it_stopped(tmp_path, encoders, entries):
    """Losses within 1 % at each step, moments of one byte, and the same bytes at the end of an interrupted run."""
    watch = Watch(log_every=1, validate_every=0, checkpoint_minutes=1e-9)

    def config(name, kind):
        found = toys.configuration(tmp_path / name, memory=Memory(optimiser=kind), watch=watch, stop=Stop(steps=6))
        return replace(found, network=replace(found.network, hidden=128, heads=4))  # smaller matrices stay in float32

    def losses(found):
        return [json.loads(line)["loss"] for line in (found.output / "log.jsonl").read_text().splitlines()]

    def interrupt(step):
        if step == 4:
            raise KeyboardInterrupt

    plain, whole, halted = config("plain", "adamw"), config("whole", "adamw8bit"), config("halted", "adamw8bit")
    train(plain, encoders=encoders, entries=entries)
    expected = train(whole, encoders=encoders, entries=entries).path
    assert losses(whole) == pytest.approx(losses(plain), rel=0.01) and losses(whole) != losses(plain)
    with pytest.raises(KeyboardInterrupt):
        train(halted, encoders=encoders, entries=entries, on_step=interrupt)
    assert checkpoints.latest(halted.output / "checkpoints")[1]["step"] == 3
    assert train(halted, encoders=encoders, entries=entries).path.read_bytes() == expected.read_bytes()
    moments = TrainingRun(whole, join("cpu", 2), None, encoders, entries).updater.prepare_state()
    largest = max((n for n in moments if n.startswith("optimiser.")), key=lambda n: moments[n].numel())
    assert moments[largest].numel() >= 128 * 128
    stored = getattr(moments[largest], "codes", moments[largest])  # torchao's tensor holds codes and scales
    assert stored.element_size() == 1


@pytest.mark.parametrize(
    ("mode", "count", "lost"), [("identity", 4_232_284_160, 37_767_168), ("audio", 2_236_127_744, 0)]
)
def test_plan_at_full_size(mode, count, lost):
    found = plan(TrainingConfig(mode=mode, memory=Memory(checkpoint_layers=True)))
    assert found.trains.count == count
    assert found.trains.without_gradient_count == lost
    text = "\n".join(found.lines())
    assert f"{count:,}" in text
    assert ("can get no gradient" in text) == bool(lost)
    assert "layers.41.attention.dense.weight" in text or not lost
    moments = next(size for what, size in found.memory.items() if "moments" in what)
    assert moments == 8 * (count - lost)


@pytest.fixture
def toy_config(tmp_path):
    config = toys.configuration(tmp_path, "identity", precision="bf16", batch=1)
    return replace(config, network=replace(config.network, hidden=128, heads=4, layers=6))


@pytest.mark.parametrize("mode", ["base", "identity", "audio", "lora"])
def test_what_few_layers_keep_tells_what_many_keep(toy_config, monkeypatch, mode):
    """Seven layers counted, and seven extrapolated from four and five."""
    config = replace(toy_config, mode=mode, network=replace(toy_config.network, layers=7))
    extrapolated = planning._counts(config)
    planning._counts.cache_clear()
    monkeypatch.setattr(planning, "MEASURED", (6, 7))
    assert planning._counts(config).kept == extrapolated.kept
    planning._counts.cache_clear()


def test_every_switch_saves_what_it_says(toy_config):
    def memory(**switches):
        found = plan(replace(toy_config, memory=Memory(micro_batch=1, **switches)))
        return found.total, found.memory

    plain, parts = memory()
    checkpointed, _ = memory(checkpoint_layers=True)
    assert checkpointed < plain
    fp8, fp8_parts = memory(checkpoint_layers=True, fp8=True)
    assert fp8_parts["weights of the networks"] < parts["weights of the networks"]
    assert fp8 < checkpointed
    eight, _ = memory(checkpoint_layers=True, fp8=True, optimiser="adamw8bit")
    assert eight < fp8
    host, _ = memory(checkpoint_layers=True, fp8=True, optimiser="adamw8bit", offload_activations=True)
    assert host < eight


def test_fit_takes_the_fewest_switches_and_refuses_what_cannot_be(toy_config):
    plain = plan(replace(toy_config, memory=Memory(micro_batch=1))).total / 1e9
    assert fit(toy_config, plain * 1.01).memory == Memory(micro_batch=1)
    assert fit(toy_config, plain * 0.99).memory.checkpoint_layers
    with pytest.raises(InputError, match="needs"):
        fit(toy_config, plain / 1000)
