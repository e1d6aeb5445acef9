"""The sample inputs on the canvas: what the loaders would give, and the files in the input folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture
def input_folder(pack, models, tmp_path, monkeypatch):
    pack("nodes.samples")
    (tmp_path / "input").mkdir()
    for kind in ("input", "temp"):
        monkeypatch.setattr(
            sys.modules["folder_paths"], f"get_{kind}_directory", lambda kind=kind: str(tmp_path / kind)
        )
    return tmp_path / "input"


@pytest.fixture
def portrait(pack, input_folder):
    return pack("nodes.samples").Hallo3Portrait


@pytest.fixture
def voice(pack, input_folder):
    return pack("nodes.samples").Hallo3Voice


def first_choice(node: type, name: str) -> str:
    return node.INPUT_TYPES()["required"][name][0][0]


def test_the_samples_are_chosen_until_one_has_one_s_own(pack, portrait, voice):
    """A fresh canvas runs untouched; the page shows and plays the first choice from the temporary folder."""
    temp = Path(sys.modules["folder_paths"].get_temp_directory())
    picture, sound = first_choice(portrait, "image"), first_choice(voice, "audio")
    assert sorted(f"{path.name} [temp]" for path in temp.iterdir()) == sorted((picture, sound))
    assert portrait.VALIDATE_INPUTS(picture) is True and voice.VALIDATE_INPUTS(sound) is True
    image, audio = pack("nodes.samples").Hallo3SampleInputs().execute()["result"]
    assert torch.equal(portrait().execute(picture)[0], image)
    assert torch.equal(voice().execute(sound, 0.0, 0.0)[0]["waveform"], audio["waveform"])


def test_a_sample_needs_no_temporary_folder(portrait, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys.modules["folder_paths"], "get_temp_directory", lambda: str(tmp_path / "file"))
    assert portrait().execute(first_choice(portrait, "image"))[0].shape == (1, 480, 720, 3)


def test_one_s_own_files_are_offered_by_kind(portrait, voice, input_folder):
    for name in ("b.png", "a.jpg", "say.wav", "talk.mp4", "notes.txt"):
        (input_folder / name).touch()
    (input_folder / "folder.png").mkdir()
    assert portrait.INPUT_TYPES()["required"]["image"][0][1:] == ["a.jpg", "b.png"]
    assert voice.INPUT_TYPES()["required"]["audio"][0][1:] == ["say.wav", "talk.mp4"]


@pytest.mark.parametrize("name", ["gone.png", "../secret.png", "", "."])
def test_a_file_that_is_not_there_is_told_before_and_in_the_run(pack, portrait, voice, input_folder, name):
    (input_folder.parent / "secret.png").touch()
    for node in (portrait, voice):
        assert "no such file in ComfyUI's input folder" in node.VALIDATE_INPUTS(name)
        assert node.IS_CHANGED(name) == ""
    with pytest.raises(ValueError, match="no such file in ComfyUI's input folder"):
        portrait().execute(name)


def test_a_file_counts_as_changed_by_its_content(portrait, input_folder):
    own = input_folder / "own.png"
    own.write_bytes(b"one")
    before = portrait.IS_CHANGED("own.png")
    own.write_bytes(b"one")
    assert portrait.IS_CHANGED("own.png") == before
    own.write_bytes(b"two")
    assert portrait.IS_CHANGED("own.png") != before


@pytest.mark.parametrize(("start", "length"), [(0.0, 1.0), (1.25, 0.5), (2.0, 0.0), (3.0, 60.0), (1.0, 1e-9)])
def test_a_part_of_the_recording_is_its_samples(voice, start, length):
    sound = first_choice(voice, "audio")
    whole, part = (voice().execute(sound, *span)[0] for span in ((0.0, 0.0), (start, length)))
    rate, first = part["sample_rate"], round(start * whole["sample_rate"])
    stop = first + max(1, round(length * rate)) if length else None
    assert rate == whole["sample_rate"]
    assert torch.equal(part["waveform"], whole["waveform"][..., first:stop])


@pytest.mark.parametrize("start", [3.61, 100.0])
def test_a_part_that_begins_after_the_end_is_refused(voice, start):
    with pytest.raises(ValueError, match="the recording is 3.60 s long. Start before its end"):
        voice().execute(first_choice(voice, "audio"), start, 1.0)


def test_portrait_and_voice_change_apart(portrait, voice):
    """No node hands out both, so that another voice leaves what depends on the portrait as it is."""
    for node, kind in ((portrait, "IMAGE"), (voice, "AUDIO")):
        assert node.RETURN_TYPES == (kind,)
        taken = {name: spec[0] for name, spec in node.INPUT_TYPES()["required"].items()}
        assert not {"IMAGE", "AUDIO"} & {each for each in taken.values() if isinstance(each, str)}


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
    own = {"waveform": torch.zeros(1, 1, 9), "sample_rate": 8_000}
    pack("nodes.samples").Hallo3SampleInputs().execute(torch.rand(1, 60, 80, 3), own)
    assert not list(Path(input_folder).iterdir())
