"""Laws of the drawn world: a seed is a film, the mouth is read off its sound, and the caption tells what is seen."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest

from hallo3_core.toy.world.captions import PHRASINGS, VOCABULARY, caption, split_words
from hallo3_core.toy.world.drawing import blink_track, draw_frames, face_boxes, head_track
from hallo3_core.toy.world.films import HELD_OUT, TRAINING, draw_film
from hallo3_core.toy.world.people import CLOTHES, EYES, HAIR, HAIR_STYLES, SKIN, draw_person
from hallo3_core.toy.world.scenes import KINDS, draw_scene
from hallo3_core.toy.world.speech import CONSONANTS, RATE, VOWELS, draw_voice, speak
from hallo3_core.toy.world.writing import LIST, write_films

SEEDS = range(20)


def test_a_seed_is_a_film():
    one, same, other = draw_film(3, 9), draw_film(3, 9), draw_film(4, 9)
    assert np.array_equal(one.frames, same.frames) and np.array_equal(one.speech.samples, same.speech.samples)
    assert one.caption == same.caption
    assert not np.array_equal(one.frames, other.frames)
    assert not np.array_equal(one.speech.samples, other.speech.samples)


def test_held_out_people_never_occur_in_training():
    assert not set(TRAINING) & set(HELD_OUT)
    assert len({draw_person(seed) for seed in (*TRAINING[:500], *HELD_OUT[:500])}) == 1000
    assert len({draw_voice(seed) for seed in (*TRAINING[:500], *HELD_OUT[:500])}) == 1000


def test_what_is_passed_in_replaces_nothing_else():
    film, person = draw_film(5, 9), draw_person(77)
    changed = draw_film(5, 9, person=person, scene=film.scene)
    assert changed.person == person and changed.scene == film.scene
    assert np.array_equal(changed.speech.samples, film.speech.samples) and np.array_equal(changed.head, film.head)
    longer = draw_film(5, 20)
    assert np.array_equal(longer.head[:9], film.head)


def test_every_name_occurs_among_people_and_scenes():
    people, scenes = [draw_person(seed) for seed in range(400)], [draw_scene(seed) for seed in range(100)]
    for name, palette in (("skin", SKIN), ("hair", HAIR), ("eyes", EYES), ("clothes", CLOTHES)):
        assert {getattr(person, name).name for person in people} == set(palette)
    assert {person.hair_style for person in people} == set(HAIR_STYLES)
    assert {(scene.kind, scene.moving) for scene in scenes} == {(kind, moves) for kind in KINDS for moves in (0, 1)}


def test_captions_tell_what_is_seen_in_the_vocabulary():
    for seed in SEEDS:
        person, scene = draw_person(seed), draw_scene(seed)
        texts = [caption(person, scene, phrasing) for phrasing in range(PHRASINGS)]
        assert len(set(texts)) == PHRASINGS and caption(person, scene) in texts
        for text in texts:
            words = split_words(text)
            assert set(words) <= set(VOCABULARY)
            seen = {person.hair.name, person.hair_style, person.skin.name, person.clothes.name, scene.colour.name}
            assert seen <= set(words) and ("still" in words) == (not scene.moving)
    assert len(VOCABULARY) < 100


def test_a_mouth_opens_by_what_is_said_and_closes_in_silence():
    assert max(VOWELS, key=lambda name: VOWELS[name].height) == "a"
    assert min(VOWELS, key=lambda name: VOWELS[name].width) == "u"
    assert CONSONANTS["m"].height == CONSONANTS["b"].height == 0
    for seed in SEEDS:
        speech = speak(draw_voice(seed), 4, seed)
        assert speech.mouth.shape == (100, 2) and speech.mouth.min() >= 0 and speech.mouth.max() <= 1
        level = np.sqrt((speech.samples.reshape(100, -1) ** 2).mean(1))
        assert (speech.mouth[level < 0.002, 0] < 0.1).all()
        assert speech.mouth[:, 0].max() > 0.5
        assert np.abs(np.diff(speech.mouth, axis=0)).max() < 0.75


def test_the_mouth_is_read_off_the_sound_at_the_same_frame():
    """Linear regression from log bands of a frame's own sound to the mouth; the best lag is none."""
    bands, mouths = [], []
    for seed in range(24):
        speech = speak(draw_voice(seed), 4, seed)
        bands.append(_log_bands(speech.samples))
        mouths.append(speech.mouth[:, 0])
    seen, held = np.concatenate(bands[:16]), np.concatenate(mouths[:16])
    weights = np.linalg.lstsq(_with_squares(seen), held, rcond=None)[0]
    guess, true = [_with_squares(band) @ weights for band in bands[16:]], mouths[16:]
    scores = {
        lag: np.mean([np.corrcoef(g[5 + lag : 95 + lag], t[5:95])[0, 1] for g, t in zip(guess, true, strict=True)])
        for lag in range(-4, 5)
    }
    assert max(scores, key=scores.get) == 0
    assert scores[0] > 0.85, scores


def _log_bands(samples: np.ndarray) -> np.ndarray:
    """24 log bands of each frame: ``n -> f 24``."""
    spectra = np.abs(np.fft.rfft(samples.reshape(-1, RATE // 25) * np.hanning(RATE // 25))) ** 2
    edges = np.geomspace(3, spectra.shape[1], 25).astype(int)
    return np.stack([np.log(spectra[:, a : max(b, a + 1)].sum(1) + 1e-3) for a, b in pairwise(edges)], 1)


def _with_squares(bands: np.ndarray) -> np.ndarray:
    return np.concatenate([bands, bands**2, np.ones((len(bands), 1))], 1)


def test_speech_ends_where_it_should_and_is_never_too_loud():
    for seconds in (0.04, 0.3, 1.96, 7.7):
        speech = speak(draw_voice(1), seconds, 1)
        assert len(speech.samples) == round(seconds * RATE) and speech.samples.dtype == np.float32
        assert len(speech.mouth) == len(speech.loudness) == -(-len(speech.samples) * 25 // RATE)
        assert np.abs(speech.samples).max() < 1
    with pytest.raises(ValueError, match="longer than 0"):
        speak(draw_voice(1), 0, 1)


def test_what_moves_is_what_the_scene_says():
    for kind in KINDS:
        motion = {}
        for moving in (False, True):
            films = [draw_film(seed, 25, scene=draw_scene(seed, kind, moving)) for seed in range(6)]
            corners = [film.frames[:, :40, [*range(12), *range(-12, 0)]].astype(float) for film in films]
            motion[moving] = np.mean([np.abs(np.diff(corner, axis=0)).mean() for corner in corners])
        assert motion[False] == 0 or motion[True] > 10 * motion[False]


def test_the_mouth_moves_the_mouth_alone():
    person, scene = draw_person(2), draw_scene(2)
    head, blink = np.zeros((2, 5), np.float32), np.zeros(2, np.float32)
    frames = draw_frames(person, scene, np.array([[0, 0.5], [1, 0.5]], np.float32), head, blink)
    changed = np.abs(frames[0] - frames[1]).max(-1) > 0.02
    rows, columns = np.nonzero(changed)
    assert 100 < changed.sum() < 700 and np.ptp(rows) < 30 and np.ptp(columns) < 45


def test_the_opening_grows_evenly_with_its_track():
    person, scene = draw_person(9), draw_scene(9)
    heights = np.linspace(0, 1, 21, dtype=np.float32)
    mouth = np.stack([heights, np.full(21, 0.5, np.float32)], 1)
    frames = draw_frames(person, scene, mouth, np.zeros((21, 5), np.float32), np.zeros(21, np.float32))
    x0, y0, x1, y1 = face_boxes(person, np.zeros((1, 5), np.float32)).astype(int)[0]
    face = frames[:, (y0 + y1) // 2 + 8 : y1 - 2, x0 + 12 : x1 - 12]
    darkness = np.clip(0.4 - face.max(-1), 0, 0.2).sum((1, 2))
    assert (np.diff(darkness) >= 0).all()
    assert np.corrcoef(darkness, heights)[0, 1] > 0.99


def test_faces_fill_a_good_part_of_the_frame_and_stay_in_it():
    for seed in SEEDS:
        film = draw_film(seed, 9)
        x0, y0, x1, y1 = film.face_boxes.T
        assert (x0 > 0).all() and (x1 < 144).all() and (y0 > 0).all() and (y1 < 96).all()
        assert ((y1 - y0) > 0.38 * 96).all() and ((y1 - y0) < 0.60 * 96).all()
        points = film.face_points
        assert (points[..., 0] > x0[:, None]).all() and (points[..., 0] < x1[:, None]).all()
        assert (points[:, :2, 1].max(1) < points[:, 2, 1]).all() and (points[:, 2, 1] < points[:, 3:, 1].min(1)).all()


def test_the_picture_does_not_depend_on_its_size():
    small, large = draw_film(6, 3, (96, 144)), draw_film(6, 3, (288, 432))
    shrunk = large.frames.reshape(3, 96, 3, 144, 3, 3).mean((2, 4))
    assert np.abs(shrunk - small.frames).mean() < 2.5
    assert np.allclose(large.face_boxes, small.face_boxes * 3, atol=1e-3)


def test_tracks_are_smooth_and_people_blink():
    for seed in SEEDS:
        head = head_track(250, 25, seed)
        assert np.abs(np.diff(head, axis=0)).max(0)[2] < 0.2 and np.abs(head[:, 2]).max() <= 1
        assert blink_track(250, 25, seed).max() == 1


def test_written_films_are_read_like_any_footage(tmp_path):
    import av

    listed = write_films(tmp_path / "films", [4, HELD_OUT[0]], 9)
    before = {path.name: path.stat().st_mtime_ns for path in listed.parent.glob("*.mp4")}
    entries = [json.loads(line) for line in listed.read_text().splitlines()]
    assert listed.name == LIST and [entry["seed"] for entry in entries] == [4, HELD_OUT[0]]
    for entry in entries:
        film = draw_film(entry["seed"], 9)
        assert entry["caption"] == film.caption and tuple(entry["face_box"]) == film.face_box
        assert entry["consent"] == "own" and entry["frames"] == 9 and entry["size"] == [96, 144]
        with av.open(str(listed.parent / entry["film"])) as file:
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
        assert np.abs(frames.astype(float) - film.frames).mean() < 6
        with av.open(str(listed.parent / entry["sound"])) as file:
            sound = np.concatenate([frame.to_ndarray().ravel() for frame in file.decode(audio=0)]) / 32768
        assert np.abs(sound - film.speech.samples).max() < 1e-4
        assert (listed.parent / entry["film"]).with_suffix(".txt").read_text().strip() == film.caption
    write_films(tmp_path / "films", [4, HELD_OUT[0], 5], 9, workers=2)
    assert {name: (tmp_path / "films" / name).stat().st_mtime_ns for name in before} == before
    assert len(listed.read_text().splitlines()) == 3


def test_people_are_values():
    with pytest.raises(dataclasses.FrozenInstanceError):
        draw_person(1).size = 2
    with pytest.raises(ValueError, match="unknown scene"):
        draw_scene(1, "rain")
