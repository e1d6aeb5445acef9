"""The sample portrait and speech are copied under the names that workflows use, and overwrite nothing."""

from __future__ import annotations

import pytest

from hallo3_core.cli.main import main
from hallo3_core.errors import InputError
from hallo3_core.inputs.image import read_image
from hallo3_core.inputs.recording import read_recording
from hallo3_core.inputs.samples import NAMES, copy_samples


def test_the_samples_are_copied_whole(tmp_path, capsys):
    assert main(["samples", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hallo3_portrait.jpg", "hallo3_speech.flac"]
    for name, source in NAMES.items():
        assert (tmp_path / name).read_bytes() == source.read_bytes()
    assert [line.split("/")[-1] for line in capsys.readouterr().out.splitlines()] == list(NAMES)


def test_a_file_that_is_there_stays(tmp_path):
    (tmp_path / "hallo3_portrait.jpg").write_bytes(b"my own")
    copy_samples(tmp_path)
    assert (tmp_path / "hallo3_portrait.jpg").read_bytes() == b"my own"
    assert (tmp_path / "hallo3_speech.flac").is_file()


def test_a_missing_folder_is_reported(tmp_path):
    with pytest.raises(InputError, match="missing: no such folder. Give ComfyUI's input folder"):
        copy_samples(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def test_the_samples_can_be_used(tmp_path):
    portrait, speech = copy_samples(tmp_path)
    assert read_image(portrait).shape == (3, 480, 720)
    assert read_recording(speech).frames == 90
