"""kill -9 at any moment: the next run goes on, and ends in the film of a run that nothing disturbed."""

from __future__ import annotations

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from .conftest import Set

MOMENTS, CLIPS = 30, 6


def test_thirty_random_moments_of_six_clips(forges, make_whole, tmp_path):
    """Counted in clips: most are inside of sampling, some while files are written."""
    whole, draw = make_whole(CLIPS), random.Random(7)
    moments = [draw.random() * CLIPS for _ in range(MOMENTS)]

    def trials(thread: int) -> list[int]:
        folder = tmp_path / str(thread)
        folder.mkdir()
        return [killed_and_resumed(Set(forges[thread], folder, whole.words), whole, t) for t in moments[thread::2]]

    with ThreadPoolExecutor(2) as pool:
        kept = [clips for thread in pool.map(trials, range(2)) for clips in thread]
    assert len(kept) == MOMENTS and len(set(kept)) >= 5  # moments before, between and behind the clips


def killed_and_resumed(stage: Set, whole, moment: float) -> int:
    """Clips that were finished when the run was killed: as many as `moment` counts are waited for, then its share."""
    run = stage.start()
    clips, share = divmod(moment, 1)
    while finished(stage) < clips:
        time.sleep(0.005)
    time.sleep(share * whole.seconds / CLIPS)
    run.kill(signal.SIGKILL)
    assert run.wait() in (-signal.SIGKILL, 0), run.said
    kept = stage.kept()
    code, said = stage.make()
    assert code == 0, said
    assert stage.film() == whole.film and stage.left() == ["film.mp4"]
    assert not kept or f"{kept} finished clips are there" in said
    stage.output.unlink()
    return kept


def finished(stage: Set) -> int:
    """Of a run that is at work, and may put the film in place and its work folder away meanwhile."""
    try:
        return CLIPS if stage.output.exists() else stage.kept()
    except FileNotFoundError:
        return CLIPS


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
