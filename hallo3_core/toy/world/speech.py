"""Synthesised speech with mouth motion: vowels and consonants of invented words, by a source-filter model.

One set of smooth tracks (formants, loudness, mouth) is made first. Both the sound and the mouth motion come from it, so
they are in sync by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...clips import FPS, film_frames

RATE = 16_000  # samples per second
CONTROL = 200  # track values per second
TOP = 5_000.0  # Hz, of the highest harmonic
GLIDE = 0.030  # seconds: standard deviation of the coarticulation
HUSH = 0.0008  # level of the constant background noise


class Sound(NamedTuple):
    """A speech sound: how far the mouth opens (height, width, 0..1), its first two formants in Hz, and its sources."""

    height: float
    width: float
    first: float
    second: float
    voiced: float
    hiss: float
    seconds: tuple[float, float]


VOWELS = {
    "a": Sound(1.00, 0.62, 800, 1250, 1.0, 0.0, (0.12, 0.30)),
    "e": Sound(0.55, 0.88, 530, 1850, 0.9, 0.0, (0.11, 0.26)),
    "i": Sound(0.28, 1.00, 300, 2300, 0.8, 0.0, (0.10, 0.26)),
    "o": Sound(0.72, 0.30, 500, 900, 0.9, 0.0, (0.12, 0.30)),
    "u": Sound(0.36, 0.08, 320, 720, 0.8, 0.0, (0.10, 0.28)),
}
CONSONANTS = {
    "m": Sound(0.00, 0.50, 250, 1150, 0.25, 0.0, (0.08, 0.14)),
    "b": Sound(0.00, 0.50, 250, 1000, 0.04, 0.0, (0.07, 0.11)),
    "s": Sound(0.12, 0.78, 350, 1700, 0.0, 0.10, (0.08, 0.13)),
}
SILENCE = Sound(0.00, 0.50, 450, 1450, 0.0, 0.0, (0.20, 0.60))


@dataclass(frozen=True)
class Voice:
    """The parameters of a voice."""

    pitch: float  # Hz
    melody: float  # how far the pitch moves, 0..1
    tract: float  # factor on all formants: a shorter vocal tract has higher ones
    breath: float  # share of noise in the voice
    tilt: float  # how quickly high harmonics fall off
    tempo: float  # factor on all durations


@dataclass(frozen=True)
class Speech:
    """A recording with the matching mouth motion."""

    samples: np.ndarray  # ``n``, float32, at `RATE`
    mouth: np.ndarray  # ``f 2``: height and width of the mouth in the middle of each frame, 0..1, float32
    loudness: np.ndarray  # ``f``, 0..1, float32


def draw_voice(seed: int) -> Voice:
    """The voice of a seed."""
    rng = np.random.default_rng([seed, 3])
    height = rng.uniform(0, 1)  # of the voice: pitch and formants are loosely correlated
    return Voice(
        pitch=95 * 2.6 ** float(np.clip(height + rng.normal(0, 0.1), 0, 1)),
        melody=rng.uniform(0.3, 1.0),
        tract=0.92 + 0.20 * height + rng.uniform(-0.03, 0.03),
        breath=rng.uniform(0.01, 0.06),
        tilt=rng.uniform(0.7, 1.2),
        tempo=rng.uniform(0.85, 1.2),
    )


def speak(voice: Voice, seconds: float, seed: int) -> Speech:
    """Random speech of a voice, from the seed, this many seconds long; it begins and ends with a closed mouth."""
    if seconds <= 0:
        raise ValueError(f"speech lasts longer than 0 seconds, got {seconds}")
    rng = np.random.default_rng([seed, 4])
    samples = max(1, round(seconds * RATE))
    tracks = _tracks(voice, samples / RATE, rng)
    sound = _synthesise(voice, tracks, samples, rng)
    frames = film_frames(samples, RATE)
    middles = (np.arange(frames) + 0.5) / FPS
    mouth = np.stack([_at(middles, tracks.height), _at(middles, tracks.width)], 1)
    return Speech(sound, mouth.astype(np.float32), _at(middles, tracks.loudness).astype(np.float32))


class _Tracks(NamedTuple):
    """Smooth curves at `CONTROL` values per second."""

    height: np.ndarray
    width: np.ndarray
    first: np.ndarray
    second: np.ndarray
    voiced: np.ndarray
    hiss: np.ndarray
    loudness: np.ndarray
    accent: np.ndarray  # 0..1: where the melody rises


def _tracks(voice: Voice, seconds: float, rng: np.random.Generator) -> _Tracks:
    """The targets of consecutive sounds, all smoothed in the same way."""
    length = int(np.ceil(seconds * CONTROL)) + 1
    targets = np.zeros((8, length))
    position = 0
    for sound, loudness, accent in _utter(rng):
        end = position + max(1, round(rng.uniform(*sound.seconds) * voice.tempo * CONTROL))
        mouth = (sound.height * (0.45 + 0.55 * loudness), sound.width)
        sources = (sound.voiced * loudness, sound.hiss * loudness, loudness, accent)
        targets[:, position:end] = np.array((*mouth, sound.first, sound.second, *sources))[:, None]
        position = end
        if position >= length:
            break
    rest = round(0.12 * CONTROL)  # silence at the end, so that no film ends mid-word
    if length > 3 * rest:
        targets[[0, 4, 5, 6, 7], -rest:] = 0
        targets[1, -rest:] = SILENCE.width
    return _Tracks(*_smooth(targets, GLIDE * CONTROL))


def _utter(rng: np.random.Generator):
    """Yields endless sounds, each with loudness and accent: words of one to three syllables, phrases, pauses."""
    vowels, consonants = list(VOWELS.values()), list(CONSONANTS.values())
    yield SILENCE._replace(seconds=(0.08, 0.25)), 0.0, 0.0
    while True:
        for _ in range(rng.integers(2, 6)):  # words of a phrase
            loudness, syllables = rng.uniform(0.40, 1.0), rng.integers(1, 4)
            stressed = rng.integers(syllables)
            for syllable in range(syllables):
                level = loudness * (1.0 if syllable == stressed else 0.75)
                if rng.random() < 0.75:
                    yield consonants[rng.integers(len(consonants))], level, 0.0
                yield vowels[rng.integers(len(vowels))], level, float(syllable == stressed)
        yield SILENCE, 0.0, 0.0


def _smooth(curves: np.ndarray, deviation: float) -> np.ndarray:
    """Smooths curves ``c n`` with a symmetric Gaussian, which adds no delay."""
    reach = int(np.ceil(3 * deviation))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    padded = np.pad(curves, ((0, 0), (reach, reach)), mode="edge")
    return np.stack([np.convolve(curve, kernel / kernel.sum(), mode="valid") for curve in padded])


def _at(times: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """A track's values at times in seconds."""
    return np.interp(times * CONTROL, np.arange(len(curve)), curve)


def _synthesise(voice: Voice, tracks: _Tracks, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Samples ``n``: harmonics of the pitch filtered by the formants, plus noise for breath and sibilants."""
    times = np.arange(samples) / RATE
    pitch = _pitch(voice, tracks, rng)
    phase = 2 * np.pi * np.cumsum(_at(times, pitch)) / RATE
    formants = (tracks.first * voice.tract, tracks.second * voice.tract, 2700 * voice.tract, 3700 * voice.tract)
    harmonics = range(1, int(TOP / pitch.min()) + 1)
    gains = np.stack([_resonance(n * pitch, formants) * n**-voice.tilt * (n * pitch < TOP) for n in harmonics])
    gains /= np.sqrt((gains**2).sum(0)) + 1e-9  # normalised, so that loudness does not depend on the vowel
    sound = np.zeros(samples)
    offsets = rng.uniform(0, 2 * np.pi, len(gains))
    for n, gain, offset in zip(harmonics, gains, offsets, strict=True):
        sound += _at(times, gain) * np.sin(n * phase + offset)
    noise = rng.normal(size=samples)
    hiss = np.diff(noise, prepend=0.0)  # brighter than the noise
    sound = (sound + voice.breath * noise) * _at(times, tracks.voiced) * 0.30 + 0.25 * hiss * _at(times, tracks.hiss)
    return np.clip(sound + HUSH * rng.normal(size=samples), -1, 1).astype(np.float32)


def _pitch(voice: Voice, tracks: _Tracks, rng: np.random.Generator) -> np.ndarray:
    """Hz, at control rate: falling within a phrase, higher on accents, with some jitter."""
    seconds = np.arange(len(tracks.accent)) / CONTROL
    accents = _smooth(tracks.accent[None], 0.06 * CONTROL)[0]
    slow, medium, fast = rng.uniform(0, 7, 3)
    drift = np.sin(2.2 * seconds + slow) + np.sin(5.0 * seconds + medium) + np.sin(31.4 * seconds + fast)
    return voice.pitch * 2 ** (voice.melody * (0.35 * accents + 0.06 * drift) - 0.1)


def _resonance(frequency: np.ndarray, formants: tuple) -> np.ndarray:
    """Gain of a series of resonators at a frequency (bandwidth about 6 % of the formant plus 50 Hz)."""
    gain = np.ones_like(frequency)
    for formant in formants:
        width = 50 + 0.06 * formant
        gain *= formant**2 / np.sqrt((formant**2 - frequency**2) ** 2 + (frequency * width) ** 2)
    return gain
