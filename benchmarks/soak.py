"""Many clips with the toy model in one process: does memory or the number of open files grow?

    python benchmarks/soak.py [--clips 200] [--json FILE]

Makes one video of this many clips, with kept clips, at the smallest size. Each clip records the process's resident
memory, its open file handles and the live tensors that Python knows. The report has each value after the tenth clip and
at the end, and the maximum between.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from hallo3_core.animate import Progress, animate
from hallo3_core.clips import FPS, NEW_FRAMES_PER_CLIP
from hallo3_core.pipeline.options import Options, Settings
from hallo3_core.release.layout import Release
from hallo3_core.toy.noise_release import write_tiny_release

WARM = 10  # clips after which memory must not grow
PORTRAIT = Path(__file__).parents[1] / "assets" / "portrait.jpg"
RATE = 16_000


class Watch(Progress):
    """Records memory and handles after a clip's first step, when the previous clip is finished and freed."""

    def __init__(self):
        self.process, self.readings = psutil.Process(), []

    def step(self, clip: int, step: int, clean) -> None:
        if step == 0:
            gc.collect()
            handles = self.process.num_handles() if sys.platform == "win32" else self.process.num_fds()
            found = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
            tensors = len({each.untyped_storage().data_ptr() for each in found})  # the writer's views come and go
            del found
            self.readings.append((self.process.memory_info().rss, handles, tensors))


def soak(clips: int, folder: Path) -> list[tuple[int, int, int]]:
    """Resident bytes, open handles and live tensors after each clip."""
    release = Release(write_tiny_release(folder / "tiny"))
    sound = folder / "sound.wav"
    write_sound(sound, clips)
    watch = Watch()
    options = Options(settings=Settings(steps=1), size=(16, 16))
    animate(PORTRAIT, sound, "A person talks.", release, folder / "film.mp4", options, watch)
    return watch.readings


def write_sound(path: Path, clips: int) -> None:
    """Writes audio as long as this many clips."""
    import wave

    samples = clips * NEW_FRAMES_PER_CLIP * RATE // FPS
    tone = torch.sin(torch.arange(samples) * 0.07) * 20_000
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(tone.to(torch.int16).numpy().tobytes())


def summary(readings: list[tuple[int, int, int]]) -> dict:
    """Summary of a soak; growth is from the tenth clip to the largest later reading."""
    warm = readings[min(WARM, len(readings)) - 1 :]
    memory, handles, tensors = ([reading[which] for reading in warm] for which in range(3))
    return {
        "clips": len(readings),
        "megabytes after the tenth": round(memory[0] / 1e6, 1),
        "megabytes at the end": round(memory[-1] / 1e6, 1),
        "largest, in megabytes": round(max(memory) / 1e6, 1),
        "growth in percent": round(100 * (max(memory) / memory[0] - 1), 2),
        "handles after the tenth": handles[0],
        "handles at the end": handles[-1],
        "most handles": max(handles),
        "fewest tensors in the ten clips behind it": min(tensors[:10]),
        "fewest tensors in the last ten": min(tensors[-10:]),  # fewest: the others are being written to the file
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--json", type=Path, help="every reading too, to this file")
    args = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        readings = soak(args.clips, Path(folder))
    result = {**summary(readings), "seconds": round(time.monotonic() - start, 1), "torch": torch.__version__}
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    if args.json:
        args.json.write_text(json.dumps({**result, "readings": readings}))


if __name__ == "__main__":
    main()
