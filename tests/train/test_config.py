"""Configurations: what is written is what is read, and every value can be set from the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hallo3_core.errors import InputError
from hallo3_core.train import runs
from hallo3_core.train.config import Stop, TrainingConfig, read, write
from hallo3_core.train.trainable import Rule

READY = sorted(Path(runs.__path__[0]).glob("*.yaml"))


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_a_resolved_file_is_the_same_configuration(path, tmp_path):
    config = read(path)
    write(config, tmp_path / "resolved.yaml")
    assert read(tmp_path / "resolved.yaml") == config


def test_the_defaults_are_the_originals():
    config = TrainingConfig()
    assert (config.stop.steps, config.batch) == (30_000, 1)
    assert (config.rates.peak, config.rates.warmup_steps, config.rates.last) == (1e-5, 300, 0.01)
    u = config.updating
    assert (u.betas, u.eps, u.weight_decay, u.clip, u.average) == ((0.9, 0.95), 1e-8, 1e-4, 0.1, 0.9999)
    c = config.chances
    assert (c.drop_audio, c.drop_concat, c.drop_reference, c.drop_text, c.drop_pixel) == (0.05, 0.05, 0.05, 0.1, 0.1)
    assert c.motion_sigma == (-3.0, 0.5)


def test_values_from_the_command_line(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("mode: speech\nstop: {steps: 5}\n")
    changes = [
        "stop.steps=7",
        "rates.peak=1e-3",
        "trains.denoiser=[audio]",
        "updating.betas=[0.8, 0.9]",
        "stop.seconds=60",
    ]
    config = read(path, changes)
    assert config.stop == Stop(7, 60.0)
    assert config.rates.peak == 1e-3 and config.updating.betas == (0.8, 0.9)
    assert config.trains == Rule(denoiser=("audio",))
    assert (
        replace(config, stop=Stop(), rates=TrainingConfig().rates, trains=None, updating=TrainingConfig().updating)
        == TrainingConfig()
    )


@pytest.mark.parametrize("change", ["mode.x=1", "stop.steps=[1]", "updating.betas=[1]", "compile=1", "start=3"])
def test_a_value_of_another_kind_is_refused(tmp_path, change):
    path = tmp_path / "run.yaml"
    path.write_text("mode: speech\n")
    with pytest.raises(InputError, match=change.partition("=")[0].partition(".")[0]):
        read(path, [change])
