"""A clip fades in from the one before: no jump where they meet, and nothing after the fade."""

from __future__ import annotations

import pytest
import torch

from hallo3_core.clips import Timeline
from hallo3_core.errors import InputError
from hallo3_core.film.seam import LONGEST_FADE, fade_seam
from hallo3_core.inputs.image import plan_framing, to_uint8
from hallo3_core.inputs.portrait import Portrait
from hallo3_core.pipeline.clip import Conductor


@pytest.mark.parametrize("fade", [1, 8, LONGEST_FADE])
def test_a_clip_that_only_starts_elsewhere_goes_over_evenly(fade):
    """The clip before ends in grey 0.5, this one draws all its frames in 0.6."""
    before, clip = torch.full((3, 4, 6), 0.5), torch.full((47, 3, 4, 6), 0.6)
    found = fade_seam(clip, before, clip[0], fade)
    steps = torch.cat((before[None], found)).diff(dim=0).flatten(1)
    assert torch.allclose(steps[: fade + 1], torch.full_like(steps[: fade + 1], 0.1 / (fade + 1)), atol=1e-6)
    assert torch.equal(found[fade:], clip[fade:])


def test_motion_inside_the_clip_stays():
    """The difference fades, not the clip: a light that moves is not drawn twice."""
    clip = torch.rand(47, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fade_seam(clip, clip[0], clip[0], 12), clip)


def test_a_last_clip_shorter_than_the_fade_is_faded_whole():
    clip = torch.full((3, 3, 4, 6), 0.6)
    found = fade_seam(clip, torch.zeros(3, 4, 6), clip[0], 12)
    assert len(found) == 3 and (found < clip).all() and (found >= 0).all()


@pytest.mark.parametrize("frames", [-1, LONGEST_FADE + 1, 1.5, float("nan")])
def test_a_fade_out_of_range_is_refused(frames):
    with pytest.raises(InputError, match="seam fade"):
        fade_seam(torch.zeros(5, 3, 4, 6), torch.zeros(3, 4, 6), torch.zeros(3, 4, 6), frames)


def test_the_next_clip_starts_from_frames_without_the_fade():
    framing = plan_framing(16, 32, 16, 32)
    portrait, decoded = Portrait(torch.zeros(1, 3, 16, 32), framing, bank=[]), torch.rand(49, 3, 16, 32)
    hard, soft = (Conductor(Timeline(94), portrait, seam_fade=fade) for fade in (0, LONGEST_FADE))
    plain, faded = (each.finish(decoded, 1, before=torch.zeros(2, 3, 16, 32)) for each in (hard, soft))
    assert torch.equal(plain.frames, to_uint8(decoded[2:])) and torch.equal(plain.motion, faded.motion)
    assert (faded.frames.int() <= plain.frames.int()).all() and not torch.equal(faded.frames, plain.frames)
    first = soft.finish(decoded, 0, before=None)
    assert torch.equal(first.frames, to_uint8(decoded[2:]))
