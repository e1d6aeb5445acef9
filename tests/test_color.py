"""Colour correction to the portrait: drift stays bounded, correct frames are unchanged, hues are preserved."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hallo3_core.errors import InputError
from hallo3_core.film.color import from_oklab, hold_colour, statistics, straight, to_oklab
from hallo3_core.inputs.image import plan_framing

HEIGHT, WIDTH = 32, 48
WHOLE = plan_framing(HEIGHT, WIDTH, HEIGHT, WIDTH, "crop")
CLIPS = 40
FRAMES = 9


def picture(seed: int = 0) -> torch.Tensor:
    """``1 3 H W`` in 0..1: soft blobs of colour, far enough from black and white to drift."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 7, generator=draw) * 0.5 + 0.25
    return torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bilinear")


def drifting_clip(start: torch.Tensor, drift: float) -> torch.Tensor:
    """``n 3 H W``: continues from a frame, with slightly more contrast and red in every frame."""
    part = torch.linspace(0, 1, FRAMES).view(-1, 1, 1, 1)
    tint = torch.tensor((1.0, 0.2, -0.5)).view(1, 3, 1, 1)
    return ((start - 0.5) * (1 + drift * part) + 0.5 + drift * part * tint).clamp(0, 1)


def distance(frames: torch.Tensor, portrait: torch.Tensor) -> float:
    """The largest difference of any frame's mean or standard deviation from the portrait's, in Oklab."""
    differences = (
        found - target
        for found, target in zip(statistics(to_oklab(frames)), statistics(to_oklab(portrait)), strict=True)
    )
    return max(difference.abs().max().item() for difference in differences)


def chain(portrait: torch.Tensor, strength: float, drift: float) -> list[torch.Tensor]:
    """Clips that each continue from the corrected last frame of the preceding clip."""
    clips, last = [], portrait
    for _ in range(CLIPS):
        clips.append(hold_colour(drifting_clip(last, drift), portrait * 2 - 1, WHOLE, strength))
        last = clips[-1][-1:]
    return clips


@pytest.mark.parametrize("strength", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("drift", [0.02, -0.02])
def test_a_drift_stays_bounded(strength, drift):
    portrait = picture()
    once = distance(drifting_clip(portrait, drift), portrait)
    free = [distance(clip, portrait) for clip in chain(portrait, 0, drift)]
    held = [distance(clip, portrait) for clip in chain(portrait, strength, drift)]
    assert free[-1] > 8 * once  # without correction the drift adds up
    assert max(held) < 1.3 * once / strength  # with correction it settles where correction and drift balance
    assert max(held[CLIPS // 2 :]) < max(held[: CLIPS // 2]) + 0.1 * once  # and stays there


def test_a_corrected_chain_has_no_jumps():
    """Colours change no more between clips than between frames."""
    portrait = picture()
    frames = torch.cat(chain(portrait, 1.0, 0.05))
    means = statistics(to_oklab(frames))[0]
    steps = (means[1:] - means[:-1]).abs().amax(1)
    assert steps.max() < 0.003 < distance(drifting_clip(portrait, 0.05), portrait) / 5


def test_strength_0_changes_nothing():
    clip = drifting_clip(picture(), 0.3)
    assert torch.equal(hold_colour(clip, picture(1) * 2 - 1, WHOLE, 0), clip)


@pytest.mark.parametrize("strength", [0.4, 1.0])
@pytest.mark.parametrize("portrait", [picture(2), torch.rand(1, 3, HEIGHT, WIDTH), torch.full((1, 3, 32, 48), 0.3)])
def test_the_portrait_itself_is_a_fixed_point(portrait, strength):
    clip = portrait.repeat(5, 1, 1, 1)
    torch.testing.assert_close(hold_colour(clip, portrait * 2 - 1, WHOLE, strength), clip, atol=5e-5, rtol=0)


def test_a_held_clip_has_the_portraits_colours():
    portrait = picture()
    clip = picture(5).repeat(FRAMES, 1, 1, 1)
    assert distance(clip, portrait) > 0.01
    assert distance(hold_colour(clip, portrait * 2 - 1, WHOLE, 1), portrait) < 1e-3


def test_a_blink_is_not_drift():
    """A change in a single frame is preserved at any strength."""
    portrait = picture()
    clip = portrait.repeat(25, 1, 1, 1)
    clip[12] = (clip[12] * 0.9).clamp(0, 1)
    held = hold_colour(clip, portrait * 2 - 1, WHOLE, 1)
    torch.testing.assert_close(held[12] - held[11], clip[12] - clip[11], atol=0.01, rtol=0)


def test_the_padding_of_a_portrait_does_not_count():
    framing = plan_framing(HEIGHT, HEIGHT, HEIGHT, WIDTH, "pad")
    portrait, clip = picture(), picture(1).repeat(3, 1, 1, 1)
    top, left, height, width = framing.keep
    bars = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    bars[top : top + height, left : left + width] = False
    other_portrait, other_clip = portrait.clone(), clip.clone()
    other_portrait[..., bars], other_clip[..., bars] = 0.0, 0.9
    found, other = (
        hold_colour(frames, reference * 2 - 1, framing, 1)
        for frames, reference in ((clip, portrait), (other_clip, other_portrait))
    )
    torch.testing.assert_close(found[..., ~bars], other[..., ~bars], atol=1e-6, rtol=0)


def test_noise_is_not_blown_up():
    """A black clip has no content for a gain to restore."""
    clip = torch.rand(3, 3, HEIGHT, WIDTH) * 0.002
    held = hold_colour(clip, picture() * 2 - 1, WHOLE, 1)
    assert held.isfinite().all()
    spread = [statistics(to_oklab(frames))[1].max() for frames in (held, clip)]
    assert spread[0] <= 2.01 * spread[1]


@settings(max_examples=50)
@given(colours=st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=32))
def test_oklab_and_back_is_the_same_colour(colours):
    rgb = torch.tensor(colours).T[None, :, None] / 255
    torch.testing.assert_close(from_oklab(to_oklab(rgb)), rgb, atol=1e-4, rtol=0)


@given(grey=st.floats(0, 1))
def test_greys_have_no_colour_and_lightness_grows(grey):
    lightness, *colour = to_oklab(torch.full((3, 1, 1), grey)).flatten().tolist()
    assert max(map(abs, colour)) < 1e-4
    assert (grey == 1) == math.isclose(lightness, 1, abs_tol=1e-6) or grey > 0.99
    brighter = to_oklab(torch.full((3, 1, 1), min(1, grey + 0.01)))[0].item()
    assert brighter > lightness or grey > 0.99


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 1, 1), (1.0, 0.0, 0.0)),
        ((1, 0, 0), (0.627955, 0.224863, 0.125846)),
        ((0, 1, 0), (0.866440, -0.233888, 0.179498)),
        ((0, 0, 1), (0.452014, -0.032457, -0.311528)),
    ],
)
def test_published_colours(rgb, lab):
    found = to_oklab(torch.tensor(rgb, dtype=torch.float32).view(3, 1, 1)).flatten()
    torch.testing.assert_close(found, torch.tensor(lab), atol=1e-4, rtol=0)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20), st.floats(-1, 1), st.floats(-1, 1))
def test_a_straight_line_is_its_own_and_lines_add(values, offset, slope):
    values = torch.tensor(values, dtype=torch.float64)[:, None]
    line = offset + slope * torch.arange(len(values), dtype=torch.float64)[:, None]
    torch.testing.assert_close(straight(line), line)
    torch.testing.assert_close(straight(values + line), straight(values) + line)


@pytest.mark.parametrize("strength", [-0.1, 1.1, math.nan, math.inf])
def test_an_invalid_strength_is_refused(strength):
    with pytest.raises(InputError, match="colour strength is"):
        hold_colour(picture(), picture(), WHOLE, strength)


def test_a_clip_of_another_size_is_refused():
    with pytest.raises(InputError, match="the clip is 24x16, its portrait 48x32"):
        hold_colour(picture()[..., :16, :24], picture(), WHOLE, 1.0)
