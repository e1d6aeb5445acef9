"""A long film holds no more memory, files or tensors in its last clips than in its tenth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLIPS = 30


def test_thirty_clips_leave_nothing_behind():
    """In a process of its own: memory is the process's. Tensors are counted too, since a clip's are too small here to
    be told by memory alone."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), "--clips", str(CLIPS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["clips"] == CLIPS
    grown = found["fewest tensors in the last ten"] - found["fewest tensors in the ten clips behind it"]
    assert grown < 5  # one that each clip left would be ten
    assert found["most handles"] <= found["handles after the tenth"] + 2
    # A clip's frames in the background writer's hands make single readings higher: the film as a whole must not grow.
    assert found["growth in percent"] < 10
