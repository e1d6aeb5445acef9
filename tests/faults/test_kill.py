"""kill -9 at any moment: the next run goes on, and ends in the film of a run that nothing disturbed."""

from __future__ import annotations

import random
import signal

import pytest

from .conftest import Set

MOMENTS, CLIPS = 16, 4


def test_random_moments_of_a_film(forge, make_whole, tmp_path):
    """Counted in calls of Python functions behind the beginning of each clip, not by a clock: the same on any machine.
    Most moments are inside of sampling, some while files are written."""
    whole, draw = make_whole(CLIPS), random.Random(7)
    stage = Set(forge, tmp_path, whole.words)
    kept = [killed_and_resumed(stage, whole, 1 + n % CLIPS, int(10 ** draw.uniform(0, 5))) for n in range(MOMENTS)]
    assert len(set(kept)) >= CLIPS - 1  # moments before, between and behind the clips


def killed_and_resumed(stage: Set, whole, clip: int, calls: int) -> int:
    """Clips that were finished when the run was killed, so many calls behind the beginning of the clip."""
    target = {"target": "hallo3_core.pipeline.clip:Conductor.concat_latent", "call": clip}
    code, said = stage.make(faults=[{"kind": "kill_later", **target, "calls": calls}])
    assert code in (-signal.SIGKILL, 0), said
    kept = stage.kept()
    code, said = stage.make()
    assert code == 0, said
    assert stage.film() == whole.film and stage.left() == ["film.mp4"]
    assert not kept or f"{kept} finished clips are there" in said
    stage.output.unlink()
    return kept


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", [1, 2, 3, 6, 10])
def test_between_two_steps_of_keeping_a_clip(stage, whole, call, after):
    """Frames, motion frames and manifest of three clips, and the film last: ten files get their names in this order."""
    faults = [{"kind": "kill", "target": "hallo3_core.film.clip_store:os.replace", "call": call, "after": after}]
    code, _ = stage.make(faults=faults)
    assert code == -signal.SIGKILL
    assert stage.output.exists() == (call == 10 and after)
    assert stage.kept() == (call - (not after)) // 3
    code, said = stage.make()
    assert code == 0, said
    assert stage.film() == whole.film and stage.left() == ["film.mp4"]
