"""A long film uses no more memory, files or tensors in its last clips than in its tenth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLIPS = 30


def test_thirty_clips_leave_nothing_behind():
    """Runs in a separate process, to measure its memory, and counts tensors, which are too small here to show in it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), "--clips", str(CLIPS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["clips"] == CLIPS
    grown = found["fewest tensors in the last ten"] - found["fewest tensors in the ten clips behind it"]
    assert grown < 5  # a leak of one per clip would be ten
    assert found["most handles"] <= found["handles after the tenth"] + 2
    # Frames held by the background writer raise single readings, so only growth over the whole film counts.
    assert found["growth in percent"] < 10
