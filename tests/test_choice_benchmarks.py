"""The choice benchmarks at toy size: their counts are correct, and the alternatives they compare agree."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import choices, second_film, skipping
from hallo3_core.pipeline.options import Settings
from hallo3_core.sampling.guidance import Guidance
from hallo3_core.sampling.sampler import DPMPP_2M, SAMPLERS


def test_choices_count_and_compare():
    plain = Settings(steps=4)
    wanted = {
        choices.LOSSLESS: choices.Choice(plain),
        "again": choices.Choice(plain, choices.LOSSLESS),
        "half guided": choices.Choice(Settings(4, Guidance(stop=0.5)), choices.LOSSLESS),
        "fp8": choices.Choice(plain, choices.LOSSLESS, fp8="weights"),
        "products": choices.Choice(plain, choices.LOSSLESS, fp8="products"),
        "square": choices.Choice(plain, native=True),
    }
    result = choices.measure("toy", "cpu", torch.float32, 1, wanted)
    found = result["choices"]
    assert [found[name]["model_calls"] for name in wanted] == [8, 8, 6, 8, 8, 8]
    assert found["again"]["difference"] == 0 and found["square"]["difference"] is None
    assert all(found[name]["difference"] > 0 for name in ("half guided", "fp8", "products"))
    json.dumps(result)


def test_every_choice_that_is_measured_is_possible():
    for name, choice in choices.choices().items():
        assert choice.settings.branches() and (choice.against is None or choice.against in choices.choices()), name


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_rule_in_use_is_among_those_that_are_compared(sampler):
    settings = Settings(20, Guidance(stop=0.6), sampler, cache=0.1)
    film = skipping.Mixture(0, 0.3).film(settings, skipping.StepCache)
    again = skipping.Mixture(0, 0.3).film(settings, skipping.Tried)
    torch.testing.assert_close(again.latent, film.latent)
    assert (again.steps, again.model_calls) == (film.steps, film.model_calls) and film.steps < 20


def test_skipping_rules_are_compared_on_the_same_films():
    mixtures, settings = [skipping.Mixture(seed, 0.3) for seed in range(2)], Settings(12, sampler=DPMPP_2M, cache=0.1)
    runs = {
        name: (settings, alternative) for name, alternative in (skipping.ALTERNATIVES | {skipping.ALL: None}).items()
    }
    found = skipping.with_fewer(mixtures, settings, runs)
    assert found[skipping.ALL]["model_calls"] == 24 and found[skipping.ALL]["largest"] == 0
    assert len(found) == len(runs) + 1
    assert all(
        row["steps"] < 12 and 0 < row["median"] <= row["largest"] for name, row in found.items() if name != skipping.ALL
    )
    json.dumps(found)


@pytest.mark.parametrize("keep", [True, False])
def test_a_films_beginning_is_measured_and_no_film_made(tiny_release, tmp_path, keep):
    from hallo3_core.pipeline.networks import Networks
    from hallo3_core.pipeline.options import Options
    from hallo3_core.release.layout import Release

    networks = Networks(Release(tiny_release), Options(Settings(steps=1), size=(32, 48)), keep)
    clock, busy = second_film.seconds_to_sampling(networks, tmp_path)
    assert clock > 0 and busy > 0 and not list(tmp_path.glob("*.mp4"))
