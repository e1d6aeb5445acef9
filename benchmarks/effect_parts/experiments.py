"""Which films are made: each experiment changes one thing, on the same people, with the same noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from hallo3_core.sampling.guidance import Guidance
from hallo3_core.sampling.sampler import DDIM, SDE_DPMPP_2M
from tools.toy_films.films import PLAIN, Changes, Subject, asked

OTHER = 50  # the voice of the person so many numbers on
ALONE = "no concat latent"  # only the reference network and the face embedding know the portrait
FIRST = ("plain", "voice", "prompt", "identity")  # experiments that are made first; the others follow


@dataclass(frozen=True)
class Job:
    """One film of an experiment."""

    experiment: str
    variant: str
    subject: Subject
    changes: Changes


@dataclass(frozen=True)
class Counts:
    """Films of each experiment's variants."""

    sync: int = 20
    voices: int = 10
    scales: int = 4
    identity: int = 6
    prompt: int = 6
    exactness: int = 4

    @classmethod
    def quick(cls) -> Counts:
        return cls(sync=6, voices=4, scales=2, identity=3, prompt=3, exactness=2)


def jobs(counts: Counts) -> list[Job]:
    """What matters most first, and person by person, so that a run that is cut short has some of everything."""
    found = [*_sync(counts), *_scales(counts), *_identity(counts), *_prompt(counts), *_exactness(counts)]
    places = {name: place for place, name in enumerate(FIRST)}
    return sorted(found, key=lambda job: (places.get(job.experiment, len(FIRST)) // 2, job.subject.person))


def _sync(counts: Counts) -> Iterator[Job]:
    plain = Changes(settings=PLAIN)
    for n in range(counts.sync):
        yield Job("plain", "plain", Subject(n), plain)
        yield Job("plain", "scales 3.5, the default", Subject(n), Changes(settings=replace(PLAIN, guidance=Guidance())))
    for n in range(counts.voices):
        yield Job("voice", "silence after 0.8 s", Subject(n, silence=True), plain)
        yield Job("voice", "another's", Subject(n, voice=n + OTHER), plain)


def _scales(counts: Counts) -> Iterator[Job]:
    for n in range(counts.scales):
        for scale in (0.0, 1.0, 3.5, 6.0):
            yield Job("audio scale", f"{scale:g}", Subject(n), _scaled(audio=scale))
        for scale in (1.0, 3.5, 6.0):
            yield Job("text scale", f"{scale:g}", asked(n, True), _scaled(text=scale))
        for scale in (0.0, 2.0, 3.5):
            yield Job("reference scale", f"{scale:g}", Subject(n), _scaled(reference=scale))


def _scaled(**scales: float) -> Changes:
    return Changes(settings=replace(PLAIN, guidance=Guidance(PLAIN.guidance.scales._replace(**scales))))


def _identity(counts: Counts) -> Iterator[Job]:
    for n in range(counts.identity):
        yield Job("identity", "no reference", Subject(n), Changes(settings=PLAIN, null_reference=True))
        yield Job("identity", "no face", Subject(n), Changes(settings=PLAIN, null_face=True))
        for scale in (0.0, 1.0, 2.0, 3.5):
            alone = replace(_scaled(reference=scale), null_concat=True)
            yield Job(ALONE, f"reference scale {scale:g}", Subject(n), alone)
        alone = Changes(settings=PLAIN, null_concat=True)
        yield Job(ALONE, "no reference", Subject(n), replace(alone, null_reference=True))
        yield Job(ALONE, "no face", Subject(n), replace(alone, null_face=True))
        yield Job(ALONE, "neither", Subject(n), replace(alone, null_reference=True, null_face=True))


def _prompt(counts: Counts) -> Iterator[Job]:
    for n in range(counts.prompt):
        for name, moves in (("still", False), ("moving", True)):
            yield Job("prompt", name, asked(n, moves), Changes(settings=PLAIN))


def _exactness(counts: Counts) -> Iterator[Job]:
    plain = Changes(settings=PLAIN)
    variants = {
        "dpmpp-2m, 8 steps": Changes(settings=replace(PLAIN, steps=8)),
        "dpmpp-2m, 30 steps": Changes(settings=replace(PLAIN, steps=30)),
        "sde-dpmpp-2m, 12 steps": Changes(settings=replace(PLAIN, sampler=SDE_DPMPP_2M)),
        "sde-dpmpp-2m, 30 steps": Changes(settings=replace(PLAIN, steps=30, sampler=SDE_DPMPP_2M)),
        "ddim, 30 steps": Changes(settings=replace(PLAIN, steps=30, sampler=DDIM)),
        "bf16": replace(plain, dtype=torch.bfloat16),
        "fp8 weights": replace(plain, fp8="weights"),
        "step cache 0.1": Changes(settings=replace(PLAIN, cache=0.1)),
        "guidance on the first 0.6": Changes(settings=replace(PLAIN, guidance=replace(PLAIN.guidance, stop=0.6))),
    }
    for n in range(counts.exactness):
        for name, changes in variants.items():
            yield Job("exactness", name, Subject(n), changes)
        for framing, name in (("auto", "padded"), ("native", "native")):
            yield Job("square portrait", name, Subject(n, square=True), replace(plain, framing=framing))
