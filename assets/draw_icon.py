"""Draws `icon.jpg` (400 x 400) and `banner.jpg` (21:9), the pack's pictures in the registry, from `sitter.jpg`.

Run it as `python assets/draw_icon.py`, from anywhere; it needs numpy and Pillow.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
SIDE, BANNER = 400, (1260, 540)
NIGHT, DUSK, VOICE, PAPER = (22, 34, 52), (44, 78, 110), (255, 196, 112), (240, 245, 250)


def voice(draw: ImageDraw.ImageDraw, left: int, right: int, middle: int, tallest: int, step: int) -> None:
    """Bars of a spoken phrase between two columns."""
    for x in range(left, right, step):
        t = (x - left) / (right - left)
        loud = np.sin(np.pi * t) ** 0.7 * abs(0.65 * np.sin(6.5 * np.pi * t) + 0.35 * np.sin(41 * t))
        half = max(step // 3, int(loud * tallest / 2))
        draw.rounded_rectangle((x, middle - half, x + step // 2, middle + half), step // 4, fill=VOICE)


def icon(portrait: Image.Image) -> Image.Image:
    picture = portrait.crop((60, 40, 420, 400)).resize((SIDE, SIDE), Image.LANCZOS)
    shade = Image.new("L", (1, SIDE))
    shade.putdata([int(225 * max(0, (row - 0.66 * SIDE) / (0.34 * SIDE)) ** 1.1) for row in range(SIDE)])
    picture.paste(Image.new("RGB", picture.size, NIGHT), mask=shade.resize(picture.size))
    voice(ImageDraw.Draw(picture), 36, SIDE - 36, int(0.86 * SIDE), 84, 14)
    return picture


def banner(portrait: Image.Image) -> Image.Image:
    width, height = BANNER
    across = np.linspace(0, 1, width)[None, :, None]
    ground = np.array(NIGHT) * (1 - across) + np.array(DUSK) * across
    picture = Image.fromarray(np.broadcast_to(ground, (height, width, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    sides = (340, 300, 260)  # the portrait, and frames of a film going on behind it
    left = width - 60
    for i, side in reversed(list(enumerate(sides))):
        x, y = left - sides[0] - 130 * (len(sides) - 1) + 130 * i, (height - side) // 2
        frame = portrait.resize((side, side), Image.LANCZOS)
        frame = Image.blend(frame, Image.new("RGB", frame.size, DUSK), 0.28 * i)
        rounded = Image.new("L", frame.size)
        ImageDraw.Draw(rounded).rounded_rectangle((0, 0, side - 1, side - 1), 24, fill=255)
        picture.paste(frame, (x, y), rounded)
    draw.text((64, 120), "Hallo3", font=ImageFont.load_default(112), fill=PAPER)
    draw.text(
        (68, 258), "a portrait and a recording\nbecome a talking film", font=ImageFont.load_default(38), fill=PAPER
    )
    voice(draw, 68, 560, 424, 96, 14)
    return picture


def main() -> None:
    portrait = Image.open(HERE.parent / "docs" / "pictures" / "sitter.jpg").convert("RGB")
    icon(portrait).save(HERE / "icon.jpg", quality=88, optimize=True)
    banner(portrait).save(HERE / "banner.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()
