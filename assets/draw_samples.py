"""Draws `portrait.jpg` and speaks `speech.flac`: someone of the toy release's drawn world whom it never saw or heard.

Run it as `python assets/draw_samples.py`, from anywhere; it needs the project's own packages, Pillow and PyAV.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from hallo3_core.toy.world.films import HELD_OUT, DrawnFilm, draw_film  # noqa: E402 (a script of the project, no package)
from hallo3_core.toy.world.speech import RATE  # noqa: E402

WHO = 19  # of the held-out people
SIZE = (480, 720)  # height and width: the shape of the films that the model was trained on
FRAMES = 90  # 3.6 s


def sample_film() -> DrawnFilm:
    """The sample person's film, as it was drawn: the portrait is its first frame, and its caption the demo's prompt."""
    return draw_film(HELD_OUT[WHO], FRAMES)


def write_speech(samples: np.ndarray, path: Path) -> None:
    """Mono FLAC of 16 bits, without a date or any other note."""
    import av

    sound = np.round(samples * 32767).astype(np.int16)[None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound, format="s16", layout="mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


def main() -> None:
    film = sample_film()
    picture = draw_film(HELD_OUT[WHO], 1, SIZE).frames[0]
    Image.fromarray(picture).save(HERE / "portrait.jpg", optimize=True, quality=92, subsampling=0)
    write_speech(film.speech.samples, HERE / "speech.flac")
    sys.stdout.write(f"{film.caption}\n")


if __name__ == "__main__":
    main()
