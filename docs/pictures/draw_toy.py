"""Draws what the toy release makes: `toy_people.jpg`, `toy_guidance.jpg`, `toy_identity.jpg`; in `assets/`, `toy.webp`.

Run it as `python docs/pictures/draw_toy.py`, in the project's folder with its packages; it takes a few minutes.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from hallo3_core.clips import FPS  # noqa: E402
from hallo3_core.release.layout import Release  # noqa: E402
from hallo3_core.sampling.guidance import Guidance, Scales  # noqa: E402
from hallo3_core.toy.learnt_release import write_toy_release  # noqa: E402
from hallo3_core.toy.world.instruments import measure  # noqa: E402
from tools.toy_films.films import (  # noqa: E402
    PLAIN,
    Changes,
    Studio,
    Subject,
    truth,
)

PEOPLE, VOICE = (1, 8, 10, 17), 10  # held-out people, and whose voice all of them speak with
SHOWN = range(4, 46, 6)  # frames of a row
MIDDLE = 24  # the frame of a clip that stands for it
SCALES = (1.0, 2.0, 3.5)  # of the guidance grid, for audio and text alike
INK, TRUE, FOUND, PAPER = (30, 42, 58), (170, 178, 188), (222, 140, 54), (255, 255, 255)
TRACK = 64  # pixels of a mouth track's height
MARGIN = 6


def row(frames: np.ndarray, shown=SHOWN) -> Image.Image:
    """Some frames side by side."""
    return Image.fromarray(np.concatenate([frames[n] for n in shown], axis=1))


def track(heights: np.ndarray, width: int, colour, picture: Image.Image) -> None:
    """A mouth's height over the frames that the row covers, as a line."""
    span = np.linspace(SHOWN[0] - 2.5, SHOWN[-1] + 2.5, width)
    values = np.interp(span, np.arange(len(heights)), heights).clip(0, 1)
    points = [(x, (TRACK - 4) * (1 - value) + 2) for x, value in enumerate(values)]
    ImageDraw.Draw(picture).line(points, fill=colour, width=2)


def people(studio: Studio) -> Image.Image:
    """A row for each person, all with one voice; under it the voice's true mouth track and each film's."""
    films = [studio.film(Subject(n, voice=VOICE), Changes(settings=PLAIN)).numpy() for n in PEOPLE]
    rows = [row(film) for film in films]
    width = rows[0].width
    under = Image.new("RGB", (width, TRACK), PAPER)
    for film in films:
        track(measure(film).mouth[:, 0], width, FOUND, under)
    track(truth(VOICE).mouth[:, 0], width, INK, under)
    return stacked([*rows, under])


def guidance(studio: Studio) -> Image.Image:
    """A row for each scale, with its mouth track and the true one."""
    rows = []
    for scale in SCALES:
        settings = replace(PLAIN, guidance=Guidance(Scales(1.0, scale, scale)))
        film = studio.film(Subject(VOICE), Changes(settings=settings)).numpy()
        picture = row(film)
        under = Image.new("RGB", (picture.width, TRACK), PAPER)
        track(truth(VOICE).mouth[:, 0], picture.width, TRUE, under)
        track(measure(film).mouth[:, 0], picture.width, FOUND, under)
        ImageDraw.Draw(under).text((4, 2), f"{scale:g}", fill=INK, font=ImageFont.load_default(16))
        rows += [picture, under]
    return stacked(rows)


def identity(studio: Studio) -> Image.Image:
    """A row for each person: the portrait; the video; the same without the concat latent, which leaves the reference
    network and the face embedding; and without the reference network too."""
    plain = Changes(settings=PLAIN)
    alone = replace(plain, null_concat=True)
    variants = (plain, alone, replace(alone, null_reference=True))
    rows = []
    for n in PEOPLE[:3]:
        films = [studio.film(Subject(n), changes).numpy() for changes in variants]
        rows.append(Image.fromarray(np.concatenate([truth(n).frames[0], *(film[MIDDLE] for film in films)], axis=1)))
    return stacked(rows)


def stacked(pictures: list[Image.Image]) -> Image.Image:
    """One below another."""
    height = sum(picture.height for picture in pictures) + MARGIN * (len(pictures) - 1)
    sheet, y = Image.new("RGB", (pictures[0].width, height), PAPER), 0
    for picture in pictures:
        sheet.paste(picture, (0, y))
        y += picture.height + MARGIN
    return sheet


def animated(studio: Studio, path: Path) -> None:
    """Two people beside each other, each with their own voice, twice as large."""
    films = [studio.film(Subject(n, frames=90), Changes(settings=PLAIN)).numpy() for n in (VOICE, PEOPLE[1])]
    frames = [Image.fromarray(frame) for frame in np.concatenate(films, axis=2)]
    frames = [frame.resize((frame.width * 2, frame.height * 2), Image.LANCZOS) for frame in frames]
    first, *others = frames
    first.save(path, save_all=True, append_images=others, duration=round(1000 / FPS), loop=0, quality=60, method=6)


def main() -> None:
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        studio = Studio(Release(write_toy_release(Path(folder) / "toy")))
        people(studio).save(HERE / "toy_people.jpg", quality=85, optimize=True)
        guidance(studio).save(HERE / "toy_guidance.jpg", quality=85, optimize=True)
        identity(studio).save(HERE / "toy_identity.jpg", quality=85, optimize=True)
        animated(studio, ROOT / "assets" / "toy.webp")


if __name__ == "__main__":
    main()
