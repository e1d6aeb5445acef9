"""The command line on the toy release: films as long as their audio, reproducible by seed; one-line errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from hallo3_core.cli.main import main
from hallo3_core.film.writer import read_film
from hallo3_core.inputs.image import read_image

SMALL = ["--size", "32x48", "--steps", "2", "--device", "cpu"]


@pytest.fixture(scope="session")
def make(tiny_release, portrait, short_speech, tmp_path_factory):
    """`make(*options)` runs animate and returns the film's frames, rate and audio."""

    def animate(*options, image=portrait, audio=short_speech):
        output = tmp_path_factory.mktemp("film") / "film.mp4"
        words = ["--image", image, "--audio", audio, "--prompt", "A person talks.", "--models", tiny_release]
        words = ["animate", *map(str, words), "--output", str(output), *SMALL, *options]
        assert main(words) == 0
        return read_film(output)

    return animate


@pytest.fixture(scope="session")
def film(make):
    return make("--seed", "1")


def test_a_film_is_as_long_as_its_recording(make, speech):
    frames, rate, sound = make(audio=speech)
    assert len(frames) == 90 and rate == 25  # 3.58 s
    assert sound.rate == 16_000 and abs(sound.seconds - 3.58) < 0.1
    assert frames.shape[1:] == (32, 32, 3)  # a square portrait: the middle of the padded frame


def test_a_seed_is_a_film(make, film):
    again, other = make("--seed", "1"), make("--seed", "2")
    assert torch.equal(film[0], again[0])
    assert (film[0].int() - other[0].int()).abs().float().mean() > 1


def test_colour_can_be_held_to_the_portrait(make, film, portrait):
    held, *_ = make("--seed", "1", "--color-hold", "1")
    wanted = read_image(portrait).mean(dim=(1, 2)) * 255

    def off(frames):
        return (frames.float().mean(dim=(0, 1, 2)) - wanted).abs().max()

    assert off(held) < 0.5 * off(film[0])


def test_model_calls_in_turn_make_the_same_film(make, film):
    in_turn, *_ = make("--seed", "1", "--sequential")
    assert (film[0].int() - in_turn.int()).abs().max() <= 2  # last-bit differences reach the video encoder


@pytest.mark.parametrize(
    "options",
    [
        ("--audio-cfg", "1"),
        ("--text-cfg", "1"),
        ("--reference-cfg", "2"),
        ("--sampler", "ddim"),
        ("--sampler", "dpmpp-2m"),
        ("--steps", "3"),
        ("--guidance-stop", "0.5"),
        ("--fp8", "weights"),
        ("--dtype", "bf16"),
    ],
    ids=" ".join,
)
def test_every_choice_reaches_the_film(make, film, options):
    frames, *_ = make("--seed", "1", *options)
    assert frames.shape == film[0].shape
    assert (frames.int() - film[0].int()).abs().float().mean() > 0.05


def test_a_preset_reaches_the_film_and_the_summary(make, film, capsys):
    frames, *_ = make("--seed", "1", "--preset", "fast")
    assert frames.shape == film[0].shape  # a square portrait, computed without its padding
    assert (frames.int() - film[0].int()).abs().float().mean() > 0.05
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("preset fast with your own steps: 2 steps of dpmpp-2m, guidance from 0 to 0.6 of them")


def test_a_lora_reaches_the_film(make, film, tmp_path, caplog):
    stem = "transformer.transformer_blocks.0.attn1.to_v"
    noise = torch.Generator().manual_seed(0)
    pair = {f"{stem}.lora_A.weight": torch.randn(4, 64, generator=noise), f"{stem}.lora_B.weight": torch.ones(64, 4)}
    save_file(pair | {"transformer.something.lora_A.weight": torch.zeros(4, 4)}, tmp_path / "style.safetensors")
    frames, *_ = make("--seed", "1", "--lora", f"{tmp_path / 'style.safetensors'}:0.5")
    assert (frames.int() - film[0].int()).abs().float().mean() > 0.05
    assert "unused keys (1): transformer.something" in caplog.text
    unchanged, *_ = make("--seed", "1", "--lora", f"{tmp_path / 'style.safetensors'}:0")
    assert torch.equal(unchanged, film[0])


def test_framings(make, tmp_path):
    wide = tmp_path / "wide.png"
    Image.open(Path(__file__).parents[1] / "assets" / "portrait.jpg").crop((60, 40, 660, 440)).save(wide)
    assert make(image=wide)[0].shape[1:] == (32, 48, 3)  # 3:2 fills the frame
    assert make("--framing", "crop")[0].shape[1:] == (32, 48, 3)
    assert make("--size", "48x32", "--framing", "pad")[0].shape[1:] == (32, 32, 3)


def test_a_picture_without_a_face_can_serve_whole(make, tmp_path):
    flat = tmp_path / "flat.png"
    Image.new("RGB", (90, 60), (90, 120, 200)).save(flat)
    assert len(make("--face", "whole", image=flat)[0]) == 8


def test_another_size_is_warned_about(make, caplog):
    make()
    assert "the model was trained on 96x144 (height x width) alone" in caplog.text


def test_batch(tiny_release, portrait, short_speech, tmp_path, capsys):
    (tmp_path / "mine.png").write_bytes(portrait.read_bytes())
    (tmp_path / "bad.png").write_text("no picture")
    jobs = tmp_path / "jobs.txt"
    lines = [f"A person.@@mine.png@@{short_speech}", "", f"Another.@@bad.png@@{short_speech}"]
    jobs.write_text("\n".join([*lines, f"Third.@@{portrait}@@{short_speech}"]))
    words = ["batch", str(jobs), "--output-dir", str(tmp_path), "--models", str(tiny_release), *SMALL]
    folders = [word for path in (portrait, short_speech) for word in ("--inputs", str(path.parent))]
    assert main([*words, *folders]) == 2
    assert sorted(p.name for p in tmp_path.glob("*.mp4")) == ["0000.mp4", "0002.mp4"]
    error = capsys.readouterr().err
    assert "jobs.txt, line 3: " in error and "1 of 3 videos were not made" in error


def test_tiny_writes_only_into_an_empty_folder(tmp_path, capsys):
    (tmp_path / "something").touch()
    assert main(["tiny", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err


def test_tiny_is_determined_by_its_seed(tiny_release, tmp_path):
    assert main(["tiny", str(tmp_path / "a"), "--noise", "--seed", "0"]) == 0
    for file in sorted(tiny_release.rglob("*")):
        if file.is_file():
            assert (tmp_path / "a" / file.relative_to(tiny_release)).read_bytes() == file.read_bytes(), file


def test_inspect(tiny_release, tmp_path, capsys):
    assert main(["inspect", str(tiny_release)]) == 0
    assert "denoiser" in capsys.readouterr().out
    (tmp_path / "x.safetensors").write_text("nothing")
    assert main(["inspect", str(tmp_path / "x.safetensors")]) == 2


WITHOUT = """
import sys

OPTIONAL = {"insightface", "onnxruntime", "transformers", "diffusers", "av", "PIL", "cv2", "onnx"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OPTIONAL:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import hallo3_core, hallo3_core.cli.main
assert "torch" not in sys.modules
import hallo3_core.pipeline.clip, hallo3_core.animate
from hallo3_core.errors import InputError
from hallo3_core.inputs.recording import read_recording
try:
    read_recording(__FILE__)
except InputError as error:
    assert "-m pip install av" in str(error), error
else:
    raise AssertionError("read without av")
"""


def test_the_core_imports_without_optional_packages(portrait):
    script = WITHOUT.replace("__FILE__", repr(str(portrait)))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
