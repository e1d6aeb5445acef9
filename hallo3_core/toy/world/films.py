"""Films of the drawn world: everything about a film is generated from its seed.

The seeds of `TRAINING` and `HELD_OUT` are disjoint. Person, voice, scene and speech are drawn from the seed with
continuous parameters, so nothing in a held-out film occurs in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...clips import FPS, FRAMES_PER_CLIP
from .captions import caption
from .colours import colour_distance
from .drawing import blink_track, draw_frames, face_boxes, face_points, head_track
from .people import Person, draw_person
from .scenes import DrawnScene, draw_scene
from .speech import Speech, Voice, draw_voice, speak

TRAINING = range(0, 1_000_000)
HELD_OUT = range(1_000_000, 2_000_000)
SIZE = (96, 144)  # height, width: the released shape, 2 to 3
MIN_CONTRAST = 0.12  # between hair or clothes and the background
TRIES = 32  # scenes tried for enough contrast; those of two seeds never overlap


@dataclass(frozen=True)
class DrawnFilm:
    """A drawn film with its ground truth."""

    frames: np.ndarray  # ``f h w 3``, uint8
    speech: Speech
    caption: str
    person: Person
    voice: Voice
    scene: DrawnScene
    head: np.ndarray  # ``f 5``: see drawing.HEAD
    face_boxes: np.ndarray  # ``f 4``, pixels
    face_points: np.ndarray  # ``f 5 2``, pixels: eyes, nose, corners of the mouth
    seed: int

    @property
    def mouth(self) -> np.ndarray:
        """Height and width of the mouth, ``f 2`` in 0..1."""
        return self.speech.mouth

    @property
    def face_box(self) -> tuple[int, int, int, int]:
        """The box that contains the face in every frame: x0, y0, x1, y1 in whole pixels."""
        x0, y0 = np.floor(self.face_boxes[:, :2].min(0))
        x1, y1 = np.ceil(self.face_boxes[:, 2:].max(0))
        return int(x0), int(y0), int(x1), int(y1)


def draw_film(
    seed: int,
    frames: int = FRAMES_PER_CLIP,
    size: tuple[int, int] = SIZE,
    person: Person | None = None,
    voice: Voice | None = None,
    scene: DrawnScene | None = None,
    speech: Speech | None = None,
) -> DrawnFilm:
    """Draws the film of a seed, at 25 frames per second. An argument replaces what the seed would draw, and nothing
    else.

    Raises:
        ValueError: no frames, or the speech is not as long as the film.
    """
    if frames < 1:
        raise ValueError(f"a video has at least 1 frame, got {frames}")
    person = draw_person(seed) if person is None else person
    voice = draw_voice(seed) if voice is None else voice
    scene = contrasting_scene(person, seed) if scene is None else scene
    speech = speak(voice, frames / FPS, seed) if speech is None else speech
    if len(speech.mouth) != frames:
        raise ValueError(f"the speech is {len(speech.mouth)} frames long, the video {frames}")
    head, blink = head_track(frames, FPS, seed), blink_track(frames, FPS, seed)
    pictures = draw_frames(person, scene, speech.mouth, head, blink, size)
    return DrawnFilm(
        frames=(pictures * 255 + 0.5).astype(np.uint8),
        speech=speech,
        caption=caption(person, scene),
        person=person,
        voice=voice,
        scene=scene,
        head=head,
        face_boxes=face_boxes(person, head, size),
        face_points=face_points(person, head, size),
        seed=seed,
    )


def contrasting_scene(person: Person, seed: int, kind: str | None = None, moving: bool | None = None) -> DrawnScene:
    """The seed's scene, or its next one that contrasts with the person's hair and clothes."""
    best, most = None, -1.0
    for attempt in range(TRIES):
        scene = draw_scene(seed + attempt * 10_000_000, kind, moving)
        contrast = min(colour_distance(scene.colour, person.hair), colour_distance(scene.colour, person.clothes))
        if contrast > MIN_CONTRAST:
            return scene
        if contrast > most:
            best, most = scene, contrast
    return best
