"""The workflows' pictures in the template browser, made of videos from the toy release.

    python -m tools.workflows.thumbnails [name ...] [--release FOLDER]

Without names all of them are made; without a release the one that comes with the project. It takes minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from hallo3_core.release.layout import Release
from hallo3_core.sampling.guidance import Guidance, Scales
from hallo3_core.toy.learnt_release import write_toy_release
from hallo3_core.toy.world.captions import caption
from tools.toy_films.films import PLAIN, Changes, Studio, Subject, truth

FOLDER = Path(__file__).parents[2] / "workflows"
SIDE, GAP = 480, 6
DARK, INK, SOFT, LIGHT = (24, 24, 24), (255, 170, 70), (110, 118, 128), (235, 235, 235)
LONG = 90  # frames: two clips
Frames = Sequence[Image.Image]


def grid(frames: Frames, columns: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """Frames in rows from left to right, each cropped to its place."""
    (width, height), rows = size, -(-len(frames) // columns)
    sheet = Image.new("RGB", size, DARK)
    for number, frame in enumerate(frames):
        row, column = divmod(number, columns)
        left, right = (edge * (width + GAP) // columns for edge in (column, column + 1))
        top, bottom = (edge * (height + GAP) // rows for edge in (row, row + 1))
        sheet.paste(fitted(frame, right - left - GAP, bottom - top - GAP), (left, top))
    return sheet


def fitted(frame: Image.Image, width: int, height: int) -> Image.Image:
    return ImageOps.fit(frame, (width, height), Image.LANCZOS)


def film(studio: Studio, person: int, length: int = 47, **changes) -> Frames:
    """A video of one of the drawn world's held-out people, who speaks with the own voice."""
    made = studio.film(Subject(person, frames=length), Changes(settings=replace(PLAIN, **changes)))
    return [Image.fromarray(frame) for frame in made.numpy()]


def quick_start(studio: Studio) -> Image.Image:
    return fitted(film(studio, 6)[28], SIDE, SIDE)


def long_video(studio: Studio) -> Image.Image:
    """Three strips of film."""
    frames, sheet = film(studio, 19, LONG), Image.new("RGB", (SIDE, SIDE), DARK)
    pen, holes, strip = ImageDraw.Draw(sheet), 24, SIDE // 3
    for row in range(3):
        top = row * strip
        pictures = [frames[(3 * row + i) * LONG // 9] for i in range(3)]
        sheet.paste(grid(pictures, 3, (SIDE, strip - 2 * holes)), (0, top + holes))
        for x in range(8, SIDE, 32):
            for y in (top + 8, top + strip - 18):
                pen.rounded_rectangle((x, y, x + 16, y + 10), 3, fill=LIGHT)
    return sheet


def single_clip(studio: Studio) -> Image.Image:
    """The clip; below it the portrait with the face that was found, and two frames more."""
    frames, drawn = film(studio, 49), truth(49)
    portrait = Image.fromarray(drawn.frames[0])
    ImageDraw.Draw(portrait).rectangle(drawn.face_box, outline=(60, 230, 110), width=2)
    sheet = Image.new("RGB", (SIDE, SIDE), DARK)
    below = SIDE // 3 - 20
    sheet.paste(fitted(frames[20], SIDE, SIDE - below - GAP), (0, 0))
    sheet.paste(grid([portrait, frames[8], frames[36]], 3, (SIDE, below)), (0, SIDE - below))
    return sheet


def chained_clips(studio: Studio) -> Image.Image:
    """Two clips side by side, the second going on lower down, where the first ends."""
    frames, sheet = film(studio, 33, LONG), Image.new("RGB", (SIDE, SIDE), DARK)
    column, step = (SIDE - GAP) // 2, SIDE // 3
    for x, clip, offset in ((0, frames[:47], -step // 4), (column + GAP, frames[47:], step // 4)):
        for i in range(-1, 4):
            picture = clip[(1 + i) * (len(clip) - 1) // 5]
            sheet.paste(fitted(picture, column, step - GAP), (x, offset + i * step))
    return sheet


def guidance_grid(studio: Studio) -> Image.Image:
    scales = [(audio, text) for audio in (1.0, 3.5, 6.0) for text in (1.0, 3.5, 6.0)]
    return grid([film(studio, 11, guidance=Guidance(Scales(1.0, *pair)))[24] for pair in scales], 3)


def scene_prompt(studio: Studio) -> Image.Image:
    """One person, half of the picture with either prompt: the clouds stand still, or drift."""
    drawn, halves = truth(42), []
    for moving in (False, True):
        prompt = caption(drawn.person, replace(drawn.scene, moving=moving))
        made = studio.film(Subject(42, prompt=prompt), Changes(settings=PLAIN)).numpy()
        halves.append(fitted(Image.fromarray(made[44]), SIDE, SIDE))
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).polygon([(SIDE * 0.62, 0), (SIDE, 0), (SIDE, SIDE), (SIDE * 0.38, SIDE)], fill=255)
    sheet = Image.composite(halves[1], halves[0], mask)
    ImageDraw.Draw(sheet).line([(SIDE * 0.62, 0), (SIDE * 0.38, SIDE)], fill=LIGHT, width=GAP)
    return sheet


def low_vram(studio: Studio) -> Image.Image:
    """A small picture, rounded like a chip with its pins."""
    sheet, edge = Image.new("RGB", (SIDE, SIDE), DARK), 90
    pen = ImageDraw.Draw(sheet)
    for pin in range(edge + 20, SIDE - edge - 20, 28):
        pen.rectangle((pin, edge - 40, pin + 12, SIDE - edge + 40), fill=SOFT)
        pen.rectangle((edge - 40, pin, SIDE - edge + 40, pin + 12), fill=SOFT)
    inside = SIDE - 2 * edge
    mask = Image.new("L", (inside, inside))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, inside - 1, inside - 1), 24, fill=255)
    sheet.paste(fitted(film(studio, 57)[20], inside, inside), (edge, edge), mask)
    return sheet


def clean_vocals(studio: Studio) -> Image.Image:
    """A frame over the voice's waveform, and around it that of a sound with music."""
    below = SIDE // 3
    sheet = Image.new("RGB", (SIDE, SIDE), DARK)
    sheet.paste(fitted(film(studio, 26)[24], SIDE, SIDE - below), (0, 0))
    voice = truth(26).speech.samples
    music = 0.25 * np.sin(np.arange(len(voice)) * 0.05) * (1.2 + np.sin(np.arange(len(voice)) * 0.0004))
    pen, middle = ImageDraw.Draw(sheet), SIDE - below // 2
    for sound, colour in ((voice + music, SOFT), (voice, INK)):
        loud = [np.abs(part).max() for part in np.array_split(sound, SIDE // 8)]
        for i, height in enumerate(np.array(loud) / max(np.abs(voice + music).max(), 1e-9) * (below / 2 - 12)):
            pen.rectangle((8 * i, middle - height - 1, 8 * i + 4, middle + height + 1), fill=colour)
    return sheet


def core_sampler(studio: Studio) -> Image.Image:
    """The same frame with more and more steps."""
    return grid([film(studio, 31, steps=steps)[24] for steps in (1, 2, 4, 12)], 2)


ALL: dict[str, Callable[[Studio], Image.Image]] = {
    f"hallo3_{draw.__name__}": draw
    for draw in (
        *(quick_start, long_video, single_clip, chained_clips, guidance_grid),
        *(scene_prompt, low_vram, clean_vocals, core_sampler),
    )
}

APPS = {"hallo3_quick_start": ("hallo3_quick_start.app", "hallo3_microphone.app")}  # share the picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(ALL)}")
    parser.add_argument("--release", type=Path, help="a toy release (default: the one that comes with the project)")
    given = parser.parse_args()
    if unknown := set(given.names) - ALL.keys():
        parser.error(f"there is no workflow {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as folder:
        studio = Studio(Release(given.release or write_toy_release(Path(folder) / "toy")))
        for name in given.names or ALL:
            picture = ALL[name](studio)
            for of in (name, *APPS.get(name, ())):
                picture.save(FOLDER / f"{of}.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()
