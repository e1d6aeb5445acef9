"""Draws the pictures of `docs/portraits.md` from the project's own portrait, with the project's own framing and masks.

Run it as `python docs/pictures/draw_portraits.py`, in the project's folder with its packages; it takes a few minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "assets")]

from draw_portrait import draw  # noqa: E402 (a script of the project, not a package)

from hallo3_core.inputs.face_mask import reference_mask  # noqa: E402
from hallo3_core.inputs.image import plan_framing  # noqa: E402

SIDE = 200
FILM = (480, 720)  # height and width that the model was trained on
FACE = (157, 137, 323, 355)  # of sitter.jpg: forehead to chin, cheek to cheek
GREEN, LOST = (51, 230, 102), 0.35


def portrait(side: int = 480) -> Image.Image:
    return Image.open(HERE / "sitter.jpg").convert("RGB").resize((side, side), Image.LANCZOS)


def scene(width: int, height: int) -> Image.Image:
    """A wall like the portrait's, lighter in the middle."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1) * 2 - 1
    glow = np.exp(-(x**2 + y**2) / 1.2)[..., None]
    return Image.fromarray((np.array((112, 138, 165)) * (1 - glow) + np.array((196, 214, 228)) * glow).astype(np.uint8))


def sitter(side: int) -> tuple[Image.Image, Image.Image]:
    """The portrait and a mask of its sitter, so that it can be put before another wall."""
    picture = portrait(480)
    wall = np.asarray(picture).astype(int)
    blue = (wall[..., 2] - wall[..., 0] > 8) & (wall[..., 2] > 118) & (wall[..., 0] > 97)
    mask = Image.fromarray((~blue * 255).astype(np.uint8)).filter(ImageFilter.MedianFilter(7))
    ImageDraw.Draw(mask).rectangle((150, 130, 330, 360), fill=255)
    return picture.resize((side, side), Image.LANCZOS), mask.resize((side, side), Image.LANCZOS)


def marked(picture: Image.Image, box: tuple[float, ...], ratio: float = 1.2) -> Image.Image:
    """The picture as the node Hallo3 Face Embed marks it: the face's box, and darkened what the mask hides."""
    mask = reference_mask(picture.height, picture.width, box=box, ratio=ratio).numpy()[..., None]
    shown = Image.fromarray((np.asarray(picture) * (1 + mask) / 2).astype(np.uint8))
    ImageDraw.Draw(shown).rectangle([round(side) for side in box], outline=GREEN, width=max(2, picture.height // 100))
    return shown


def scaled(box: tuple[float, ...], scale: float, x: float = 0, y: float = 0) -> tuple[float, ...]:
    return tuple(side * scale + (x, y)[i % 2] for i, side in enumerate(box))


def good() -> Image.Image:
    return marked(portrait(SIDE), scaled(FACE, SIDE / 480))


def turned(degrees: float) -> Image.Image:
    return Image.fromarray(draw(SIDE, 2, np.radians(degrees)))


def small() -> Image.Image:
    """A face of a twentieth of the picture's width."""
    picture = scene(300, SIDE)
    figure, mask = sitter(44)
    picture.paste(figure, (128, SIDE - 44), mask)
    return picture


def covered() -> Image.Image:
    """A microphone before the mouth."""
    picture = portrait(480)
    pen = ImageDraw.Draw(picture)
    pen.line((262, 330, 420, 480), fill=(60, 62, 68), width=34)
    for shade, radius in ((48, 58), (66, 50), (84, 36)):
        pen.ellipse((240 - radius, 300 - radius, 240 + radius, 300 + radius), fill=(shade,) * 3)
    return picture.filter(ImageFilter.GaussianBlur(0.7)).resize((SIDE, SIDE), Image.LANCZOS)


def dark() -> Image.Image:
    """One half of the face in black shadow."""
    pixels = np.asarray(portrait(SIDE)).astype(float)
    across = np.linspace(0, 1, SIDE)[None, :, None]
    light = 1.25 * np.clip((0.55 - across) / 0.08, 0, 1) + 0.05
    return Image.fromarray(np.clip(pixels * light, 0, 255).astype(np.uint8))


def cut() -> Image.Image:
    return portrait(480).crop((215, 110, 415, 310)).resize((SIDE, SIDE), Image.LANCZOS)


def several() -> Image.Image:
    """Two people; the larger is taken."""
    picture = scene(300, SIDE)
    for side, x in ((150, -8), (190, 118)):
        figure, mask = sitter(side)
        picture.paste(figure, (x, SIDE - side), mask)
    return marked(picture, scaled(FACE, 190 / 480, 118, 10))


def drawing() -> Image.Image:
    """A face of a few lines."""
    big = Image.new("RGB", (4 * SIDE, 4 * SIDE), (250, 246, 236))
    pen, ink = ImageDraw.Draw(big), (40, 44, 60)
    pen.ellipse((230, 150, 570, 620), outline=ink, width=14)
    for x in (320, 480):
        pen.ellipse((x - 16, 340 - 16, x + 16, 340 + 16), fill=ink)
        pen.arc((x - 50, 270, x + 50, 350), 200, 340, fill=ink, width=10)
    pen.line((400, 370, 380, 440, 410, 446), fill=ink, width=10)
    pen.arc((320, 420, 480, 540), 20, 160, fill=ink, width=12)
    pen.arc((210, 110, 590, 420), 180, 360, fill=ink, width=26)
    pen.arc((180, 600, 620, 1000), 190, 350, fill=ink, width=14)
    return big.resize((SIDE, SIDE), Image.LANCZOS)


def framed(width: int, height: int, side: int, x: int, y: int, mode: str = "auto") -> Image.Image:
    """A portrait of this shape: bright what the film shows, dark what is cut off. Its sitter is `side` high."""
    picture = scene(width, height)
    figure, mask = sitter(side)
    picture.paste(figure, (x, y), mask)
    if y + side < height:  # the shirt goes on to the lower edge
        strip = figure.crop((0, side - 2, side, side)).resize((side, height - y - side), Image.NEAREST)
        picture.paste(strip, (x, y + side), mask.crop((0, side - 2, side, side)).resize(strip.size, Image.NEAREST))
    plan = plan_framing(height, width, *FILM, mode)
    scale = width / plan.scaled[1]
    rows, columns = (min(whole, film * scale) for whole, film in zip((height, width), FILM, strict=True))
    top, left = (height - rows) / 2, (width - columns) / 2
    kept = torch.zeros(height, width)
    kept[round(top) : round(top + rows), round(left) : round(left + columns)] = 1
    light = LOST + (1 - LOST) * kept.numpy()[..., None]
    shown = Image.fromarray((np.asarray(picture) * light).astype(np.uint8))
    ImageDraw.Draw(shown).rectangle((left, top, left + columns - 1, top + rows - 1), outline=GREEN, width=2)
    return shown


def framings() -> Image.Image:
    """A square, a tall and a wide portrait, and a tall one with the face in the middle."""
    tall, low, square, wide = (
        framed(160, 240, 190, -15, 0),
        framed(160, 240, 120, 20, 62),
        framed(160, 160, 160, 0, 0),
        framed(300, 200, 190, 55, 10),
    )
    return row([square, wide, tall, low])


def ratios() -> Image.Image:
    """The mask with `box_ratio` 1, 1.2, 1.5 and 2."""
    return row([marked(portrait(160), scaled(FACE, 160 / 480), ratio) for ratio in (1, 1.2, 1.5, 2)])


def row(pictures: list[Image.Image], gap: int = 14) -> Image.Image:
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    sheet, x = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white"), 0
    for picture in pictures:
        sheet.paste(picture, (x, (sheet.height - picture.height) // 2))
        x += picture.width + gap
    return sheet


PICTURES = {
    "good": good,
    "turned": lambda: turned(30),
    "profile": lambda: turned(80),
    "small": small,
    "covered": covered,
    "dark": dark,
    "cut": cut,
    "several": several,
    "drawing": drawing,
    "framings": framings,
    "box_ratio": ratios,
}


def main() -> None:
    for name, make in PICTURES.items():
        make().save(HERE / f"{name}.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()
