"""Options out of range, and those at its ends."""

from __future__ import annotations

import av

from hallo3_core.film.writer import NOTICE, read_film
from hallo3_core.sampling.noise import MAX_SEED

from . import Case, Place, case

CHANGES = {
    "steps 0": {"--steps": 0},
    "steps -1": {"--steps": -1},
    "steps 1001": {"--steps": 1001},
    "steps 1.5": {"--steps": 1.5},
    "steps many": {"--steps": "many"},
    "audio scale NaN": {"--audio-cfg": "nan"},
    "text scale infinite": {"--text-cfg": "inf"},
    "audio scale -1": {"--audio-cfg": -1},
    "reference scale 21": {"--reference-cfg": 21},
    "all scales 0": {"--audio-cfg": 0, "--text-cfg": 0, "--reference-cfg": 0},
    "size 100x150": {"--size": "100x150"},
    "size 0x0": {"--size": "0x0"},
    "size 9600x9600": {"--size": "9600x9600"},
    "size big": {"--size": "big"},
    "seed -1": {"--seed": -1},
    "seed 2 to the 64th": {"--seed": MAX_SEED + 1},
    "seed 2 to the 64th - 1": {"--seed": MAX_SEED},
    "seed 1.5": {"--seed": 1.5},
    "sampler euler": {"--sampler": "euler"},
    "framing stretch": {"--framing": "stretch"},
    "device toaster": {"--device": "toaster"},
    "device meta": {"--device": "meta"},
    "dtype fp8": {"--dtype": "fp8"},
    "colour hold 1.5": {"--color-hold": 1.5},
    "seam fade 25": {"--seam-fade": 25},
    "metadata without =": {"--metadata": "title"},
    "metadata in other bytes than UTF-8": {"--metadata": "title=caf\udce9"},
    "unknown": {"--colour": ""},
    "LoRA strength NaN": {"--lora": "style.safetensors:nan"},
}

for name, options in CHANGES.items():

    @case(f"option: {name}")
    def changed_option(place: Place, options=options):
        return Case(options)


@case("option: size 16x32, not the trained one")
def other_size(place):
    def treated() -> None:
        assert read_film(place.output)[0].shape[1:] == (16, 16, 3)  # a square portrait

    return Case({"--size": "16x32"}, treated=treated)


def comment(place: Place) -> str | None:
    with av.open(str(place.output)) as film:
        return film.metadata.get("comment")


@case("option: metadata comment=Mine")
def extended(place):
    def treated() -> None:
        assert comment(place) == f"{NOTICE}. Mine"

    return Case({"--metadata": "comment=Mine"}, treated=treated)


@case("option: vocals, without its model in the release")
def no_vocals_model(place):
    return Case({"--vocals": ""})


@case("option: no-ai-notice")
def without_notice(place):
    def treated() -> None:
        assert comment(place) is None

    return Case({"--no-ai-notice": ""}, treated=treated)
