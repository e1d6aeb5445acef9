"""Clip arithmetic: every frame of a film comes from exactly one clip, whatever its length."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hallo3_core import clips
from hallo3_core.clips import FPS, NEW_FRAMES_PER_CLIP, Timeline, film_frames


def test_the_numbers_are_the_releases():
    assert (clips.FPS, clips.FRAMES_PER_CLIP, clips.MOTION_FRAMES) == (25, 49, 2)
    assert (clips.NEW_FRAMES_PER_CLIP, clips.LATENT_FRAMES) == (47, 13)


@given(frames=st.integers(1, 200_000))
def test_clips_cover_the_film_once(frames):
    spans = [Timeline(frames).span(clip) for clip in range(Timeline(frames).clips)]
    assert spans[0][0] == 0 and spans[-1][1] == frames
    assert all(stop == start for (_, stop), (start, _) in zip(spans, spans[1:], strict=False))
    assert all(0 < stop - start <= NEW_FRAMES_PER_CLIP for start, stop in spans)


@given(seconds=st.integers(1, 7200), rate=st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 96000, 192_000]))
def test_sound_and_frames_do_not_drift(seconds, rate):
    """Frame n is at exactly n / 25 s: even after hours, the film ends less than one frame after its audio."""
    samples = seconds * rate + seconds % 7
    behind = Fraction(film_frames(samples, rate), FPS) - Fraction(samples, rate)
    assert 0 <= behind < Fraction(1, FPS)


@given(frames=st.integers(1, 2 * 3600 * FPS))
def test_clips_overlap_by_the_motion_frames_and_end_behind_the_film(frames):
    """Every clip samples 49 frames, 2 of which repeat the preceding clip, and there are no more clips than needed."""
    count = Timeline(frames).clips
    covered = count * clips.FRAMES_PER_CLIP - count * clips.MOTION_FRAMES
    assert covered - NEW_FRAMES_PER_CLIP < frames <= covered
    start, stop = Timeline(frames).span(count - 1)
    assert stop == frames and 0 < stop - start <= NEW_FRAMES_PER_CLIP
    for clip in {0, count // 2, count - 1}:
        start, stop = Timeline(frames).span(clip)
        first_sampled = start - clips.MOTION_FRAMES  # with its motion frames, a clip begins inside the preceding one
        assert clip == 0 or first_sampled >= Timeline(frames).span(clip - 1)[0]


@given(samples=st.integers(1, 2 * 3600 * 192_000), rate=st.sampled_from([8000, 16000, 22050, 44100, 48000, 192_000]))
def test_frames_are_the_ceiling_of_25_a_second(samples, rate):
    assert film_frames(samples, rate) == math.ceil(Fraction(samples, rate) * FPS)


@given(samples=st.integers(1, 10**8), rate=st.sampled_from([8000, 22050, 44100, 48000, 96000]))
def test_resampling_to_16_khz_does_not_change_the_count(samples, rate):
    resampled = -(-samples * 16000 // rate)
    assert film_frames(resampled, 16000) == film_frames(samples, rate)


@pytest.mark.parametrize("clip", [-1, 2])
def test_a_clip_that_is_not_there(clip):
    with pytest.raises(IndexError, match="a video of 63 frames has 2 clips"):
        Timeline(63).span(clip)


def test_the_slowest_and_the_shortest_sound():
    assert (film_frames(1, 1), film_frames(3, 1), film_frames(1, 192_000)) == (25, 75, 1)
    assert Timeline(1).clips == 1 and Timeline(1).span(0) == (0, 1)


def test_no_film_without_sound():
    for samples, rate in ((0, 16000), (-1, 16000), (9, 0), (9, -1)):
        with pytest.raises(ValueError, match=f"{samples} samples at {rate} Hz"):
            film_frames(samples, rate)
    with pytest.raises(ValueError, match="at least 1 frame"):
        Timeline(0)


@pytest.mark.parametrize(("frames", "latent"), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (9, 3), (17, 5), (49, 13)])
def test_the_vae_halves_the_frames_twice_and_keeps_an_odd_first_one(frames, latent):
    assert clips.latent_frames(frames) == latent


@given(frames=st.integers(1, 5000), motion_frames=st.sampled_from([1, 2, 4]))
def test_new_frames_of_all_clips_are_the_film_and_last_frames_are_sampled_again(frames, motion_frames):
    """Frame numbers as frames: clip after clip of 49, each from where its timeline says, gives every frame once."""
    timeline, film, before = clips.Timeline(frames, motion_frames), [], None
    for clip in range(timeline.clips):
        first = timeline.first_sampled(clip)
        decoded = list(range(first, first + clips.FRAMES_PER_CLIP))
        assert before is None or decoded[:motion_frames] == before
        before = timeline.last_frames(decoded)
        assert len(before) == motion_frames
        film += timeline.new_frames(decoded, clip)
    assert film == list(range(frames))
