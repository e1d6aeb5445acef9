"""The stage runner: what is whole is not made again, an interrupted stage is, and a new recipe renews all after it."""

from __future__ import annotations

import pytest

from hallo3_core.toy.card import card
from hallo3_core.toy.stages import Stages


def run(folder, recipes, fail_at=None):
    """Three stages, each writing its recipe; returns the names of those that were made."""
    made, stages = [], Stages(folder, lambda line: None)
    for name, recipe in recipes.items():

        def make(place, name=name, recipe=recipe):
            made.append(name)
            (place / "begun").write_text("")
            if name == fail_at:
                raise KeyboardInterrupt
            (place / "result").write_text(str(recipe))
            return {"value": recipe}

        stages(name, {"setting": recipe}, make)
    return made, stages


RECIPES = {"films": 1, "vae": 2, "transformers": 3}


def test_a_second_run_makes_nothing_and_knows_what_was_measured(tmp_path):
    assert run(tmp_path, RECIPES)[0] == list(RECIPES)
    made, stages = run(tmp_path, RECIPES)
    assert made == []
    assert stages.records["vae"]["measured"] == {"value": 2}


def test_an_interrupted_stage_is_taken_up_again_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, RECIPES, fail_at="vae")
    assert (tmp_path / "vae" / "begun").exists()
    assert run(tmp_path, RECIPES)[0] == ["vae", "transformers"]


def test_what_an_interrupted_stage_left_stays_for_it(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, RECIPES, fail_at="vae")
    (tmp_path / "vae" / "state").write_text("half")
    run(tmp_path, RECIPES)
    assert (tmp_path / "vae" / "state").read_text() == "half"


def test_a_changed_recipe_makes_it_and_all_after_it_anew(tmp_path):
    run(tmp_path, RECIPES)
    (tmp_path / "vae" / "leftover").write_text("of the old recipe")
    assert run(tmp_path, RECIPES | {"vae": 20})[0] == ["vae", "transformers"]
    assert not (tmp_path / "vae" / "leftover").exists()


def test_a_damaged_record_counts_as_none(tmp_path):
    run(tmp_path, RECIPES)
    (tmp_path / "vae" / "stage.json").write_text("{")
    assert run(tmp_path, RECIPES)[0][0] == "vae"


def test_the_data_card_has_recipe_measure_and_hash():
    stages = {
        "vae": {"recipe": {"seconds": 150, "channels": (32, 64)}, "seconds": 151.2, "measured": {"psnr": 33.0034}}
    }
    text = card(stages, {"VAE": {"psnr": 32.9}}, {"vae.safetensors": (4_800_000, "ab12")}, "a CPU, PyTorch 2")
    for text_part in ("| channels | 32, 64 |", "| measured: psnr | 33 |", "psnr 32.9", "4,800,000", "`ab12`", "a CPU"):
        assert text_part in text, text_part
