"""No state is kept between films: in A, B, A the third equals the first, whatever B was and however it ended."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hallo3_core.animate import Progress, animate
from hallo3_core.cli.main import main
from hallo3_core.errors import InputError
from hallo3_core.pipeline.networks import Networks
from hallo3_core.pipeline.options import Options, Settings
from hallo3_core.release.layout import Release
from hallo3_core.sampling.guidance import Guidance, Scales

SMALL = Options(settings=Settings(steps=2), size=(16, 16), seed=3)


@pytest.fixture(scope="module")
def style(tmp_path_factory) -> Path:
    """A LoRA strong enough to change the film visibly."""
    stem = "transformer.transformer_blocks.0.attn1.to_v"
    noise = torch.Generator().manual_seed(0)
    pair = {f"{stem}.lora_A.weight": torch.randn(4, 64, generator=noise), f"{stem}.lora_B.weight": torch.ones(64, 4)}
    path = tmp_path_factory.mktemp("lora") / "style.safetensors"
    save_file(pair, path)
    return path


@pytest.fixture
def make(portrait, short_speech, tmp_path):
    """`make(release, options, progress)` returns the bytes of a film."""

    def film(release: Release, options: Options = SMALL, progress: Progress | None = None) -> bytes:
        output = tmp_path / f"{threading.get_ident()}.mp4"
        animate(portrait, short_speech, "A person talks.", output, Networks(release, options), progress)
        return output.read_bytes()

    return film


class Stop(Progress):
    """Raises in the middle of a clip."""

    def __init__(self, error: BaseException):
        self.error = error

    def step(self, clip, step, clean):
        raise self.error


def others(style: Path) -> dict[str, tuple[Options, Progress | None]]:
    """Films to make in between, named by how they differ or end."""
    return {
        "another seed": (replace(SMALL, seed=4), None),
        "a LoRA": (replace(SMALL, loras=((style, 1.0),)), None),
        "bf16": (replace(SMALL, dtype=torch.bfloat16), None),
        "another size": (replace(SMALL, size=(32, 48)), None),
        "four model calls, ddim": (
            replace(SMALL, settings=Settings(3, Guidance(Scales(2, 3, 4)), "ddim", batched=False)),
            None,
        ),
        "cancelled": (replace(SMALL, seed=4, loras=((style, 1.0),)), Stop(KeyboardInterrupt())),
        "failed": (replace(SMALL, seed=4, dtype=torch.bfloat16), Stop(RuntimeError("broken"))),
        "refused": (replace(SMALL, loras=((style.with_name("missing.safetensors"), 1.0),)), None),
    }


def test_a_film_after_any_other_is_the_same_again(tiny_release, make, style):
    """All films share one release object, as in `batch`: its files are memory-mapped once."""
    release = Release(tiny_release)
    first = make(release)
    for name, (options, progress) in others(style).items():
        try:
            assert make(release, options, progress) != first, name
        except (InputError, KeyboardInterrupt, RuntimeError):
            pass
        assert make(release) == first, name


def test_the_global_generators_and_settings_are_not_touched(tiny_release, make):
    release = Release(tiny_release)
    torch.manual_seed(1), np.random.seed(1), random.seed(1)

    def state():
        numbers = np.random.get_state()
        return (
            torch.get_rng_state().tolist(),
            (numbers[0], numbers[1].tolist(), *numbers[2:]),
            random.getstate(),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.backends.cudnn.benchmark,
            torch.backends.cuda.matmul.allow_tf32,
        )

    before = state()
    first = make(release)
    assert state() == before
    torch.manual_seed(2)
    assert make(release) == first


def test_two_films_in_two_threads_do_not_disturb_each_other(tiny_release, make, style):
    options = [SMALL, replace(SMALL, seed=4, loras=((style, 1.0),), settings=Settings(3))]
    alone = [make(Release(tiny_release), each) for each in options]
    shared, together = Release(tiny_release), [None, None]

    def run(which: int) -> None:
        together[which] = make(shared, options[which])

    threads = [threading.Thread(target=run, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_a_batch_makes_the_films_that_single_runs_make(tiny_release, portrait, short_speech, tmp_path):
    """A, B, A, with a failing line in between."""
    lines = [
        f"A person talks.@@{portrait}@@{short_speech}",
        f"Someone else by the sea.@@{portrait}@@{short_speech}",
        f"Nobody.@@{tmp_path / 'none.png'}@@{short_speech}",
        f"A person talks.@@{portrait}@@{short_speech}",
    ]
    (tmp_path / "jobs.txt").write_text("\n".join(lines))
    small = ["--models", str(tiny_release), "--size", "16x16", "--steps", "2", "--device", "cpu", "--seed", "3"]
    folders = [word for path in (portrait, short_speech) for word in ("--inputs", str(path.parent))]
    assert main(["batch", str(tmp_path / "jobs.txt"), "--output-dir", str(tmp_path), *folders, *small]) == 2
    words = ["--image", str(portrait), "--audio", str(short_speech), "--prompt", "A person talks."]
    assert main(["animate", *words, "--output", str(tmp_path / "single.mp4"), *small]) == 0
    films = [(tmp_path / name).read_bytes() for name in ("0000.mp4", "0001.mp4", "0003.mp4", "single.mp4")]
    assert films[0] == films[2] == films[3] != films[1]


def test_modules_of_the_core_keep_no_state(tiny_release, make):
    """No module's globals change during a film."""
    import sys

    release = Release(tiny_release)
    make(release)

    def snapshot() -> dict[str, str]:
        return {
            f"{name}.{key}": f"{id(value)} {len(value) if isinstance(value, (dict, list, set)) else ''}"
            for name, module in sys.modules.items()
            if name.startswith("hallo3_core") and module is not None
            for key, value in vars(module).items()
            if not key.startswith("__")
        }

    before = snapshot()
    make(release, replace(SMALL, seed=9))
    assert snapshot() == before
