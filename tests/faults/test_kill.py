"""kill -9 at any moment: the next run goes on, and ends in the film of a run that nothing disturbed."""

from __future__ import annotations

import random
import signal
import time

import pytest

from .conftest import CLIPS

MOMENTS = 30
SAVED = "clip is there from an earlier run"




def test_thirty_random_moments(stage, whole):
    """Each a share of the time that the film takes, so most are inside of sampling, some while files are written."""
    film, seconds = whole
    moments, kept = random.Random(7), []
    for _ in range(MOMENTS):
        run = stage.start()
        time.sleep(moments.random() * seconds)
        run.kill(signal.SIGKILL)
        assert run.wait() in (-signal.SIGKILL, 0), run.said
        kept.append(stage.kept())
        code, said = stage.make()
        assert code == 0, said
        assert stage.film() == film and stage.left() == ["film.mp4"]
        assert not kept[-1] or f"{kept[-1]} finished clips are there" in said
        stage.output.unlink()
    assert len(set(kept)) >= 4  # moments before, between and behind the clips
