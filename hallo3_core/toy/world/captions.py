"""Describes a film in one or two sentences from a small closed vocabulary."""

from __future__ import annotations

import re
from zlib import crc32

from .people import CLOTHES, EYES, HAIR, HAIR_STYLES, SKIN, Person
from .scenes import BACKGROUND, KINDS, DrawnScene

MOVING = {"waves": "roll", "lights": "twinkle", "flag": "flutters", "clouds": "drift"}
STILL = {"waves": "stand still", "lights": "stand still", "flag": "hangs still", "clouds": "stand still"}
THING = {"waves": "{} waves", "lights": "lights on {}", "flag": "a {} flag", "clouds": "clouds on {}"}
PEOPLE = (
    "a {skin} person with {style} {hair} hair and {eyes} eyes in a {clothes} shirt is talking",
    "someone with {style} {hair} hair, {eyes} eyes and {skin} skin wears a {clothes} shirt and speaks",
    "portrait of a {skin} person talking, {style} {hair} hair, {eyes} eyes, {clothes} shirt",
)
SCENES = ("{thing} {does} behind", "behind, {thing} {does}", "in the background {thing} {does}")


def caption(person: Person, scene: DrawnScene, phrasing: int | None = None) -> str:
    """Describes the person and the moving or still background; `phrasing` selects one of `PHRASINGS` wordings.

    By default the wording depends on person and scene.
    """
    if phrasing is None:
        phrasing = crc32(repr((person, scene)).encode())
    who, where = divmod(phrasing % PHRASINGS, len(SCENES))
    thing = THING[scene.kind].format(scene.colour.name)
    does = (MOVING if scene.moving else STILL)[scene.kind]
    words = {name: getattr(person, name).name for name in ("skin", "hair", "eyes", "clothes")}
    first = PEOPLE[who].format(style=person.hair_style, **words)
    second = SCENES[where].format(thing=thing, does=does)
    return f"{first}. {second}."


PHRASINGS = len(PEOPLE) * len(SCENES)


def _vocabulary() -> tuple[str, ...]:
    """Every word and punctuation mark that can occur in a caption."""
    texts = [re.sub(r"{\w*}", "", text) for text in (*PEOPLE, *SCENES, *THING.values())]
    texts += [*MOVING.values(), *STILL.values(), *HAIR_STYLES, *KINDS]
    texts += [name for palette in (SKIN, HAIR, EYES, CLOTHES, BACKGROUND) for name in palette]
    return tuple(sorted({word for text in texts for word in split_words(text)} | {".", ","}))


def split_words(text: str) -> list[str]:
    """A caption's words and punctuation marks, in order, in lower case."""
    return re.findall(r"[a-z]+|[.,]", text.lower())


VOCABULARY = _vocabulary()
