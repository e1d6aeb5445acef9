"""A long film holds no more memory, files or tensors in its last clips than in its first ones."""

from __future__ import annotations

import gc
import os
import wave
from pathlib import Path

import pytest
import torch

from hallo3_core.animate import Progress, animate
from hallo3_core.clips import FPS, NEW_FRAMES_PER_CLIP
from hallo3_core.pipeline.networks import Networks
from hallo3_core.pipeline.options import Options, Settings
from hallo3_core.release.layout import Release
from hallo3_core.toy.noise_release import write_tiny_release
from tests.allocated import allocated, is_counted

ROOT = Path(__file__).parents[1]
CLIPS, WARM, WINDOW = 14, 4, 5
SIDE, RATE = 16, 16_000
FRAMES = 3 * SIDE * SIDE * NEW_FRAMES_PER_CLIP  # bytes of a clip's frames
KINDS = ("bytes", "handles", "tensors")


class Watch(Progress):
    """Counts at a clip's first step, when the previous clip is finished and freed, but for what is being written."""

    def __init__(self):
        self.counts: list[tuple[int, ...]] = []

    def step(self, clip: int, step: int, clean) -> None:
        if step == 0:
            gc.collect()
            found = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
            tensors = len({each.untyped_storage().data_ptr() for each in found})  # the writer's views come and go
            del found
            self.counts.append((allocated(), len(os.listdir("/proc/self/fd")), tensors))


def soak(clips: int, folder: Path) -> list[tuple[int, ...]]:
    """The counts of `KINDS` at each clip of a film, made with kept clips at the smallest size."""
    with wave.open(str(folder / "sound.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        tone = torch.sin(torch.arange(clips * NEW_FRAMES_PER_CLIP * RATE // FPS) * 0.07) * 20_000
        file.writeframes(tone.to(torch.int16).numpy().tobytes())
    watch, options = Watch(), Options(settings=Settings(steps=1), size=(SIDE, SIDE))
    inputs = (ROOT / "assets" / "portrait.jpg", folder / "sound.wav", "A person talks.")
    networks = Networks(Release(write_tiny_release(folder / "tiny")), options)
    animate(*inputs, folder / "film.mp4", networks, watch)
    return watch.counts


@pytest.mark.skipif(not is_counted(), reason="memory is counted as glibc counts it")
def test_many_clips_leave_nothing_behind(tmp_path):
    """A clip that is still being written makes a count larger, so the smallest ones count."""
    gc.collect()
    gc.freeze()  # what other tests hold is not looked through at each clip
    try:
        counts = soak(CLIPS, tmp_path)
    finally:
        gc.unfreeze()
    assert len(counts) == CLIPS
    early, late = (map(min, *part) for part in (counts[WARM : WARM + WINDOW], counts[-WINDOW:]))
    grown = {kind: after - before for kind, before, after in zip(KINDS, early, late, strict=True)}
    apart = CLIPS - WARM - WINDOW  # clips: a leak of one thing per clip would be so many
    assert grown["tensors"] < apart / 2 and grown["handles"] < apart / 2
    assert grown["bytes"] < apart * FRAMES / 2
