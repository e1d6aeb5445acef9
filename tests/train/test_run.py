"""Runs of training on toy networks, from nothing to a result that the release's readers load."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hallo3_core.film.writer import read_film
from hallo3_core.inputs.recording import Recording
from hallo3_core.pipeline.options import Settings
from hallo3_core.train.config import Stop, Watch
from hallo3_core.train.draws import Keyed
from hallo3_core.train.loop import TrainingRun, train
from hallo3_core.train.optimiser import Rates
from hallo3_core.train.preview import preview, sound_of
from hallo3_core.train.processes import join
from hallo3_core.train.result import CARD
from hallo3_core.weights import names
from hallo3_core.weights.parts import load, sort_tensors
from hallo3_core.weights.reading import read_metadata, read_tensors
from tests.train import toys

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def encoders():
    return toys.encoders()


@pytest.fixture(scope="module")
def entries():
    return toys.entries()


@pytest.fixture(scope="module")
def phases(tmp_path_factory, encoders, entries):
    """base, identity and audio, each from the one before."""
    folder, results, start = tmp_path_factory.mktemp("phases"), {}, None
    for mode in ("base", "identity", "audio"):
        config = toys.configuration(folder / mode, mode, start=start)
        results[mode] = train(config, encoders=encoders, entries=entries)
        start = results[mode].path
    return results


def test_three_phases_make_a_transformer_file_that_loads(phases):
    parts = sort_tensors(read_tensors(phases["audio"].path))
    assert not parts.unknown
    for part in (names.DENOISER, names.REFERENCE_NET, names.FACE_PROJECTOR, names.AUDIO_PROJECTOR):
        load(parts, part, dtype=torch.float32)


def test_a_phase_changes_what_its_rule_names_and_nothing_else(phases):
    before, after = (read_tensors(phases[mode].path) for mode in ("identity", "audio"))
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert not changed
    assert all("audio" in n for n in after.keys() - before.keys())
    base, identity = (read_tensors(phases[mode].path) for mode in ("base", "identity"))
    changed = {n for n in base if not torch.equal(base[n], identity[n])}
    assert changed and all("attention" in n for n in changed)


def test_previews_before_the_first_step_and_then(tmp_path, encoders, entries):
    watch = Watch(log_every=0, validate_every=0, preview_every=2, preview_steps=2, checkpoint_minutes=0)
    config = toys.configuration(tmp_path, watch=watch, stop=Stop(steps=2))
    train(config, encoders=encoders, entries=entries)
    films = sorted((tmp_path / "previews").iterdir())
    assert [film.stem for film in films] == ["step-00000000", "step-00000002"]
    h, w = toys.SIZE
    for film in films:
        frames, _, recording = read_film(film)
        assert frames.shape == (49, h, 2 * w, 3)
        assert likeness(recording, true_sound(entries[-1])) > 0.9 > 0.3 > likeness(recording, true_sound(entries[0]))


def true_sound(entry) -> torch.Tensor:
    """Of the first clip of a film at 16 kHz."""
    first = int(entry.starts[0]) * 640
    return entry.sound().waveform[0, first : first + 49 * 640]


def likeness(recording, wanted: torch.Tensor) -> float:
    """Correlation, after a codec that keeps the waveform at these rates."""
    return float(torch.corrcoef(torch.stack((recording.waveform[0, : len(wanted)], wanted)))[0, 1])


def test_a_film_without_sound_or_with_a_damaged_one_has_a_silent_preview(entries):
    damaged = replace(entries[0], sound=lambda: Recording(torch.full((1, 57 * 640), torch.nan), 16_000))
    assert sound_of(damaged, 0) is None and sound_of(replace(entries[0], sound=None), 0) is None
    heard = sound_of(entries[0], 1)
    assert heard.samples == 49 * 640
    first = int(entries[0].starts[1]) * 640
    assert torch.equal(heard.waveform, entries[0].sound().waveform[:, first : first + heard.samples])


def test_a_preview_shows_the_true_clip_and_what_the_networks_make_of_it(tmp_path, encoders, entries):
    run = TrainingRun(toys.configuration(tmp_path), join("cpu", 2), None, encoders, entries)
    batch = run.samples.batch(torch.zeros(1, dtype=torch.long), Keyed(0, 0, 1))
    first = preview(run.networks, encoders.vae, batch, Settings(2), 5, dtype=torch.float32, layout=run.layouts)
    with torch.no_grad():
        run.networks.denoiser.head.bias += 1
    second = preview(run.networks, encoders.vae, batch, Settings(2), 5, dtype=torch.float32, layout=run.layouts)
    w = toys.SIZE[1]
    assert torch.equal(first[..., :w], second[..., :w])
    assert not torch.allclose(first[..., w:], second[..., w:], atol=1e-3)


def test_the_card_says_what_the_result_is_made_of(phases):
    card = json.loads(read_metadata(phases["identity"].path)[CARD])
    assert card["mode"] == "identity" and card["steps"] == 4 and card["consent"] == ["own"]
    assert len(card["start"]) == 64 and card["data"]


def test_log(tmp_path, encoders, entries):
    config = toys.configuration(tmp_path, watch=Watch(log_every=1, validate_every=2, checkpoint_minutes=0))
    result = train(config, encoders=encoders, entries=entries)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "validation_loss" in line] == [0, 2, 4]
    assert all(len(line["loss_by_decile"]) == 10 for line in lines if "loss" in line)
    assert lines[-1]["validation_loss"] == pytest.approx(result.validation_loss)
    assert any(key.startswith("gradient_") for key in lines[1])


def test_validation_is_the_same_every_time(tmp_path, encoders, entries):
    run = TrainingRun(toys.configuration(tmp_path), join("cpu", 2), None, encoders, entries)
    assert run.validate() == run.validate()


def test_a_small_network_learns(tmp_path, encoders, entries):
    """The validation loss of held-out clips falls, and so does that of a resumed phase that trains little."""
    config = toys.configuration(tmp_path, stop=Stop(steps=60), batch=4, rates=Rates(3e-3, 5, 0))
    run = TrainingRun(config, join("cpu", 4), None, encoders, entries)
    before = run.validate().loss
    assert run.to_the_end(lambda: False, None).validation_loss < 0.9 * before


def test_inference_imports_nothing_of_training():
    code = (
        "import sys, hallo3_core.animate, hallo3_core.cli.main as m; m.build_parser(); "
        "found = [n for n in sys.modules if n.split('.')[0] in ('accelerate', 'peft', 'yaml', 'tensorboard') "
        "or n.startswith('hallo3_core.train')]; sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
