"""Presets: their settings, explicit options that override them, and the settings recorded in the film."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from hallo3_core.cli.film_options import film_options
from hallo3_core.cli.main import build_parser
from hallo3_core.cli.presets import PRESETS, settle, summary
from hallo3_core.errors import InputError
from hallo3_core.pipeline.networks import check_machine
from hallo3_core.pipeline.scene import film_frame
from hallo3_core.sampling.sampler import SAMPLERS
from hallo3_core.toy.noise_release import CONFIG

REQUIRED = "animate --image a.png --audio a.wav --prompt A --output a.mp4 --models m --device cpu".split()


def parsed(*words):
    return build_parser().parse_args([*REQUIRED, *words])


def test_without_options_the_settings_are_the_originals():
    options = film_options(parsed())
    settings = options.settings
    assert (settings.steps, settings.sampler, settings.cache) == (50, "sde-dpmpp-2m", 0)
    assert (settings.guidance.start, settings.guidance.stop, options.framing) == (0, 1, "auto")
    assert settle(parsed()) == settle(parsed("--preset", "quality"))
    assert not options.stream and options.fp8 is None and options.attention == "auto"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_options_it_stands_for(name):
    words = [
        word for key, value in asdict(PRESETS[name]).items() for word in ("--" + key.replace("_", "-"), str(value))
    ]
    assert film_options(parsed("--preset", name)) == film_options(parsed(*words))


OWN = {"steps": 7, "sampler": "ddim", "guidance_start": 0.1, "guidance_stop": 0.7, "cache": 0.2, "framing": "crop"}


@pytest.mark.parametrize("name", OWN)
def test_an_option_of_ones_own_wins(name):
    now = settle(parsed("--preset", "fast", "--" + name.replace("_", "-"), str(OWN[name])))
    assert {key: getattr(now, key) for key in OWN} == asdict(PRESETS["fast"]) | {name: OWN[name]}


def test_zero_is_an_option_too():
    assert settle(parsed("--preset", "fast", "--cache", "0")).cache == 0


def model_calls(name):
    settings = film_options(parsed("--preset", name)).settings
    return sum(len(settings.guidance.weights(step, settings.steps)) for step in range(settings.steps))


def test_each_preset_costs_less_than_the_one_before():
    assert model_calls("quality") == 100 and model_calls("quality") > model_calls("balanced") > model_calls("fast")


def test_skipping_steps_goes_with_a_solver_that_adds_no_noise():
    for preset in PRESETS.values():
        assert preset.sampler in SAMPLERS and not (preset.cache and preset.sampler.startswith("sde"))


def test_the_summary_says_what_was_in_force():
    assert summary(parsed()) == "preset quality: 50 steps of sde-dpmpp-2m"
    found = summary(parsed("--preset", "fast", "--steps", "9"))
    assert found.startswith("preset fast with your own steps: 9 steps of dpmpp-2m, guidance from 0 to 0.6 of them")
    assert found.endswith("step cache 0.1, framing native")


def test_streaming_is_nothing_on_a_cpu():
    assert not film_options(parsed("--stream")).stream


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fp8", "products"], "fp8 products needs bf16"),  # the CPU computes in float32
        (["--attention", "fastest"], "attention is 'fastest'"),
        (["--attention", "sage"], "attention 'sage' is for CUDA devices, this is cpu"),
    ],
)
def test_an_impossible_choice_is_reported_first(words, message):
    with pytest.raises(InputError, match=message):
        check_machine(film_options(parsed(*words)))


# Native square


def test_a_square_portrait_makes_a_square_film_where_that_is_asked_for():
    assert film_frame(None, "native", CONFIG, is_square=True) == ((96, 96), "auto")
    assert film_frame((64, 96), "native", CONFIG, is_square=True) == ((64, 64), "auto")
    assert film_frame((96, 64), "native", CONFIG, is_square=True) == ((64, 64), "auto")
    assert film_frame(None, "native", CONFIG, is_square=False) == ((96, 144), "auto")
    assert film_frame(None, "pad", CONFIG, is_square=True) == ((96, 144), "pad")


def test_native_sizes_are_not_warned_about(caplog):
    film_frame(None, "native", CONFIG, is_square=True)
    assert not caplog.records
    film_frame((96, 96), "auto", CONFIG, is_square=True)
    assert "the model was trained on 96x144" in caplog.text
