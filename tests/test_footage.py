"""A video is read as a player shows it: which picture and sound belong to a moment, upright, in the right colours."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from hallo3_core.errors import InputError
from hallo3_core.inputs.footage import Footage, open_footage
from hallo3_core.inputs.recording import read_recording, to_mono
from tests import footage


def flashes(found: Footage) -> list[int]:
    return [n for n, image in enumerate(found.pictures()) if image[:, 48, 3 * image.shape[2] // 4].float().mean() > 150]


def clicks(found: Footage) -> list[float]:
    """When clicks begin, in pictures of 25 a second."""
    loud = np.flatnonzero(to_mono(found.sound()).numpy() > 0.25)
    return [float(at) * 25 / footage.RATE for at in loud[np.diff(loud, prepend=-10_000) > 2000]]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("sound_at", [0.0, 0.5])
def test_clicks_stay_with_flashes_as_far_as_the_file_says(tmp_path, suffix, sound_at):
    found = open_footage(footage.write(tmp_path / f"a{suffix}", sound_at=sound_at))
    assert (found.count, found.height, found.width, found.held) == (60, 96, 144, 0)
    assert flashes(found) == [5, 15, 25, 35, 45, 55]
    expected = [5 + 25 * sound_at + 10 * n for n in range(6)]
    assert clicks(found) == pytest.approx(expected, abs=0.2)


def test_sound_that_begins_first_is_cut(tmp_path):
    found = open_footage(footage.write(tmp_path / "a.mkv", times=lambda n: n / 25 + 0.6))
    assert flashes(found)[:2] == [5, 15]
    assert clicks(found) == pytest.approx([0, 10, 20, 30, 40], abs=0.1)  # the clicks at 15, 25, ... of 60


@pytest.mark.parametrize(("early", "cut"), [(0.064, True), (0.6, False)])
def test_a_recording_of_a_video_loses_an_encoders_priming_but_no_words(tmp_path, early, cut):
    """Some containers put the pictures later by the priming; sound that really begins first is kept."""
    path = footage.write(tmp_path / "a.mkv", times=lambda n: n / 25 + early)
    recording = read_recording(path)
    assert recording.start == pytest.approx(early if cut else 0, abs=0.001)
    lost = 60 * 640 - recording.samples
    assert lost == pytest.approx(early * footage.RATE if cut else 0, abs=20)


def test_sound_that_ends_before_the_first_picture_is_refused(tmp_path):
    found = open_footage(footage.write(tmp_path / "a.mkv", times=lambda n: n / 25 + 5))
    with pytest.raises(InputError, match="its sound ends before its first picture"):
        found.sound()


def test_missing_pictures_repeat_the_last_one_and_are_told(tmp_path, caplog):
    numbers = [n for n in range(60) if not 20 <= n < 32]
    found = open_footage(footage.write(tmp_path / "a.mkv", numbers=numbers))
    assert (found.count, found.held) == (60, 12)
    assert flashes(found) == [5, 15, 35, 45, 55]
    assert "no pictures for 0.48 s" in caplog.text
    greys = [int(image[0, 48, 20]) for image in found.pictures(range(18, 34))]
    assert max(greys[1:14]) - min(greys[1:14]) <= 2 and greys[14] > greys[13] + 30


@pytest.mark.parametrize("rate", [Fraction(24), Fraction(30000, 1001), Fraction(60)])
def test_other_rates_are_read_at_25_a_second(tmp_path, rate):
    """A picture of another rate is that of the nearest moment."""
    count = round(2.4 * rate)
    at = [float(n / rate) for n in range(count)]
    path = footage.write(
        tmp_path / "a.mkv", count, times=at.__getitem__, image=lambda n: footage.picture(int(25 * n / rate + 0.5))
    )
    found = open_footage(path)
    assert found.count in (59, 60, 61) and found.held == 0
    assert flashes(found) == [5, 15, 25, 35, 45, 55]


def test_any_pictures_are_the_same_as_in_one_pass(tmp_path):
    found = open_footage(footage.write(tmp_path / "a.mp4"))
    whole, some = list(found.pictures()), [0, 7, 8, 31, 59]
    assert len(whole) == 60
    assert all(torch.equal(whole[n], image) for n, image in zip(some, found.pictures(some), strict=True))


@pytest.mark.parametrize(("degrees", "corner"), [(90, (2, -3)), (180, (-3, 2)), (270, (2, 2))])
def test_a_rotation_flag_is_followed(tmp_path, degrees, corner):
    plain = footage.write(tmp_path / "a.mp4", 3)
    upright = np.rot90(next(open_footage(plain).pictures()).permute(1, 2, 0).numpy(), -degrees // 90)
    found = open_footage(footage.turned(plain, degrees))
    shown = next(found.pictures()).permute(1, 2, 0).numpy()
    assert (found.height, found.width) == upright.shape[:2]
    assert np.array_equal(shown, upright)


def test_pixels_become_square(tmp_path):
    found = open_footage(footage.write(tmp_path / "a.mkv", 3, sample_aspect_ratio=Fraction(16, 15)))
    assert (found.height, found.width) == (96, 154)
    assert next(found.pictures()).shape == (3, 96, 154)


COLOURS = np.array([(255, 0, 0), (224, 172, 140), (128, 128, 128), (255, 255, 255)])


def high_dynamic_range(transfer: str) -> np.ndarray:
    """Stripes of the colours, shown at 203 cd/m2, in BT.2020 with `transfer`, by the standards' forward formulas:
    ``h w 3``, uint16."""
    to_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    light = (COLOURS / 255) ** 2.4 @ to_2020.T * 203
    if transfer == "pq":
        y = (light / 10_000) ** 0.1593017578125
        code = ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375
    else:
        luminance = light @ np.array([0.2627, 0.6780, 0.0593]) / 1000
        scene = light / 1000 * luminance[:, None] ** (1 / 1.2 - 1)
        code = np.where(
            scene <= 1 / 12,
            np.sqrt(3 * scene),
            0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073,
        )
    return np.repeat((code * 65535).round().astype(np.uint16), 36, axis=0)[None].repeat(96, axis=0)


@pytest.mark.parametrize(("transfer", "number"), [("pq", 16), ("hlg", 18)])
def test_high_dynamic_range_keeps_its_colours(tmp_path, transfer, number):
    image = high_dynamic_range(transfer)
    path = footage.write(
        *(tmp_path / "a.mkv", 3),
        image=lambda _: image,
        with_sound=False,
        source="rgb48le",
        pixels="yuv444p10le",
        color_trc=number,
        color_primaries=9,
        colorspace=9,
    )
    shown = next(open_footage(path).pictures())
    found = np.stack([shown[:, 48, 18 + 36 * n].numpy() for n in range(4)]).astype(int)
    assert np.abs(found - COLOURS)[1:].max() <= 2
    assert np.abs(found - COLOURS)[0].max() <= 16  # pure red: near black, ten bits are coarse


@pytest.mark.parametrize("coded", [False, True])
def test_damage_in_the_middle_costs_no_time(tmp_path, coded):
    path = footage.write(tmp_path / "a.mkv", 60, with_sound=False, gop_size=10)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = bytes(300)
    path.write_bytes(content)
    found = open_footage(path, coded)
    assert len(list(found.pictures())) == found.count


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    sound = footage.write(tmp_path / "b.mkv", 3)
    for path, words in {
        tmp_path / "none.mp4": "no such file",
        tmp_path: "a folder",
        tmp_path / "text.mp4": "not readable as a video",
        Path(__file__): "not readable as a video",
    }.items():
        with pytest.raises(InputError, match=words):
            open_footage(path)
    assert open_footage(sound).count == 3
