"""The sample inputs on the canvas: what the loaders would give, and the files in the input folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture
def input_folder(pack, models, tmp_path, monkeypatch):
    pack("nodes.samples")
    monkeypatch.setattr(sys.modules["folder_paths"], "get_input_directory", lambda: str(tmp_path))
    return tmp_path


def test_the_node_gives_the_samples_and_puts_them_into_the_input_folder(pack, input_folder):
    done = pack("nodes.samples").Hallo3SampleInputs().execute()
    image, audio = done["result"]
    assert image.shape == (1, 480, 720, 3) and image.dtype == torch.float32 and 0 <= image.min() < image.max() <= 1
    assert audio["waveform"].shape[:2] == (1, 1) and audio["sample_rate"] == 16_000
    assert {path.name for path in input_folder.iterdir()} == {"hallo3_portrait.jpg", "hallo3_speech.flac"}
    (shown,) = done["ui"]["images"]
    assert (input_folder / shown["filename"]).is_file() and shown["type"] == "input"


def test_nothing_is_written_before_the_node_runs(pack, input_folder):
    node = pack("nodes.samples").Hallo3SampleInputs
    node.INPUT_TYPES()
    assert not list(Path(input_folder).iterdir())


def test_the_samples_are_inputs_that_the_other_nodes_take(pack, input_folder):
    image, audio = pack("nodes.samples").Hallo3SampleInputs().execute()["result"]
    assert pack("nodes.images").portrait_of(image).shape == (1, 3, 480, 720)
    assert pack("nodes.audio").recording_of(audio).frames == 90


@pytest.mark.parametrize("own", ["image", "audio"])
def test_one_s_own_goes_before_the_sample(pack, input_folder, own):
    """A bypassed Load Image or Load Audio gives nothing, so that the sample stands in for it."""
    run = pack("nodes.samples").Hallo3SampleInputs().execute
    samples = dict(zip(("image", "audio"), run()["result"], strict=True))
    mine = {"image": torch.rand(1, 60, 80, 3), "audio": {"waveform": torch.zeros(1, 1, 99), "sample_rate": 8_000}}
    done = run(**{own: mine[own]})
    chosen = dict(zip(("image", "audio"), done["result"], strict=True))
    assert chosen[own] is mine[own]
    assert bool(done["ui"]["images"]) == (own == "audio")  # the sample portrait is shown where it is used
    (other,) = {"image", "audio"} - {own}
    a, b = (value if other == "image" else value["waveform"] for value in (chosen[other], samples[other]))
    assert torch.equal(a, b)


def test_nothing_is_written_where_both_are_one_s_own(pack, input_folder):
    pack("nodes.samples").Hallo3SampleInputs().execute(torch.rand(1, 60, 80, 3), {"waveform": 0, "sample_rate": 1})
    assert not list(Path(input_folder).iterdir())
