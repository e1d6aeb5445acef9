"""Voice and music apart: without the library, and with a toy that has the library's face."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

MODEL = "hallo3/voices/Kim_Vocal_2.onnx"
LIST = "download_checks.json"  # one of those that the library wants beside a model


@pytest.fixture
def separate(pack, models):
    """Run the node Hallo3SeparateVocals on a waveform ``1 c n``."""
    folder = models / MODEL.rpartition("/")[0]
    folder.mkdir()
    (folder / "Kim_Vocal_2.onnx").touch()
    (folder / LIST).touch()
    node = pack("nodes.vocals").Hallo3SeparateVocals

    def run(waveform=None, rate=16000, model=MODEL):
        sound = None if waveform is None else {"waveform": waveform, "sample_rate": rate}
        return node().execute(sound, model)

    yield run
    shutil.rmtree(folder)


@pytest.fixture
def toy(pack, monkeypatch):
    """A library whose separator calls the sound itself the voice and nothing the rest."""

    class Separator:
        def __init__(self, *, log_level, model_file_dir, output_dir, output_format, normalization_threshold):
            self.models, self.output = Path(model_file_dir), Path(output_dir)

        def download_file_if_not_exists(self, url, output_path):
            raise AssertionError("the network was asked")

        def load_model(self, model_filename):
            for name in (LIST, model_filename):
                self.download_file_if_not_exists("https://example.invalid", str(self.models / name))

        def separate(self, path, names):
            waveform = pack("hallo3_core.inputs.recording").read_recording(path)
            silent = type(waveform)(torch.zeros_like(waveform.waveform), waveform.rate)
            write = pack("hallo3_core.inputs.vocals").write_wav
            for stem, sound in (("Vocals", waveform), ("Instrumental", silent)):
                write(self.output / f"{names[stem]}.wav", sound)

    package, module = ModuleType("audio_separator"), ModuleType("audio_separator.separator")
    module.Separator = Separator
    monkeypatch.setitem(sys.modules, "audio_separator", package)
    monkeypatch.setitem(sys.modules, "audio_separator.separator", module)


@pytest.mark.parametrize("loudness", [0.5, 3.0])
def test_both_parts_come_back_as_loud_as_they_were(separate, toy, loudness):
    sound = torch.rand(1, 2, 4000) * 2 * loudness - loudness
    vocals, rest = separate(sound)
    assert vocals["sample_rate"] == rest["sample_rate"] == 16000
    torch.testing.assert_close(vocals["waveform"], sound, atol=2e-4 * max(1, loudness), rtol=0)
    assert rest["waveform"].shape == sound.shape and not rest["waveform"].any()


def test_a_missing_list_is_reported_instead_of_downloaded(pack, separate, toy, models):
    (models / "hallo3" / "voices" / LIST).unlink()
    with pytest.raises(pack("hallo3_core.errors").InputError, match=f"{LIST} is missing beside Kim_Vocal_2.onnx"):
        separate(torch.zeros(1, 1, 100))


def test_without_the_library_the_error_has_its_install_command(pack, separate, monkeypatch):
    monkeypatch.setitem(sys.modules, "audio_separator", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "audio_separator.separator", raising=False)
    words = r'python -m pip install "audio-separator\[cpu\]"'
    with pytest.raises(pack("hallo3_core.errors").InputError, match=words):
        separate(torch.zeros(1, 1, 100))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (dict(waveform=None), "audio: there is no sound"),
        (dict(waveform=torch.zeros(2, 1, 100)), r"audio: shape \[2, 1, 100\]"),
        (dict(waveform=torch.full((1, 1, 9), torch.nan)), "is nan, expected a number"),
        (dict(waveform=torch.zeros(1, 1, 9), model="../secret.onnx"), "vocal separation model: '../secret.onnx' is"),
        (dict(waveform=torch.zeros(1, 1, 9), model="none found"), "^none found: vocal separation model"),
    ],
)
def test_wrong_inputs_are_refused(pack, separate, toy, inputs, words):
    with pytest.raises(pack("hallo3_core.errors").InputError, match=words):
        separate(**inputs)
