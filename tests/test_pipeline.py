"""The results that remain of a decoded clip."""

from __future__ import annotations

import torch

from hallo3_core.clips import Timeline
from hallo3_core.inputs.image import crop_to, plan_framing, to_uint8
from hallo3_core.inputs.portrait import Portrait
from hallo3_core.pipeline.clip import Conductor


def test_a_clip_leaves_its_new_frames_without_bars_and_its_end_without_the_rest():
    framing = plan_framing(60, 60, 16, 32)
    portrait, decoded = Portrait(torch.zeros(1, 3, 16, 32), framing, bank=[]), torch.rand(49, 3, 16, 32)
    frames, motion = Conductor(Timeline(60), portrait).finish(decoded, 1)
    assert torch.equal(frames, to_uint8(crop_to(decoded[2:15], framing))) and frames.shape[2] < 32
    assert torch.equal(motion, decoded[-2:])
    assert motion.untyped_storage().nbytes() == motion.nbytes  # a view would keep the whole clip
