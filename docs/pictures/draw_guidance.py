"""Draws `guidance.png`: the chain of conditions, its three scales, and which model calls a setting costs.

Run it as `python docs/pictures/draw_guidance.py`, in the project's folder with its packages.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from hallo3_core.sampling.guidance import Scales, branch_weights  # noqa: E402 (the project's own, wherever this is run)

WIDTH, HEIGHT, FINE = 960, 540, 2  # drawn twice as large, then scaled, for smooth edges
INK, SOFT, LINE, PAPER = (30, 42, 58), (96, 110, 126), (196, 206, 216), (255, 255, 255)
STAGES = (
    ("nothing", "the trained null", (150, 160, 172)),
    ("portrait", "who it is", (66, 132, 190)),
    ("portrait, sound", "how the mouth moves", (222, 140, 54)),
    ("portrait, sound, prompt", "what the scene is", (84, 156, 96)),
)
STEPS = ("reference_cfg", "audio_cfg", "text_cfg")
SETTINGS = ((1, 3.5, 3.5), (3.5, 3.5, 3.5), (1, 1, 1), (1, 5, 3.5), (2, 5, 3.5))
CENTRES = (250, 430, 610, 790)
TOP, FIRST_ROW, ROW = 96, 268, 52


class Sheet:
    """Drawing in the final picture's pixels."""

    def __init__(self):
        self.image = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, words: str, size: int, fill=INK, anchor: str = "mm") -> None:
        self.pen.text((x * FINE, y * FINE), words, font=ImageFont.load_default(size * FINE), fill=fill, anchor=anchor)

    def disc(self, x: float, y: float, radius: float, fill=None, outline=None) -> None:
        corners = [side * FINE for side in (x - radius, y - radius, x + radius, y + radius)]
        self.pen.ellipse(corners, fill=fill, outline=outline, width=2 * FINE)

    def line(self, *points: tuple[float, float], fill=INK, width: float = 2) -> None:
        self.pen.line([(x * FINE, y * FINE) for x, y in points], fill=fill, width=round(width * FINE))

    def save(self, path: Path) -> None:
        self.image.resize((WIDTH, HEIGHT), Image.LANCZOS).quantize(64).save(path, optimize=True)


def draw() -> Sheet:
    sheet = Sheet()
    for (title, meaning, colour), x in zip(STAGES, CENTRES, strict=True):
        sheet.disc(x, TOP, 30, fill=colour)
        sheet.text(x, TOP + 56, title, 15)
        sheet.text(x, TOP + 78, meaning, 13, SOFT)
    for scale, left, right in zip(STEPS, CENTRES, CENTRES[1:], strict=False):
        sheet.line((left + 38, TOP), (right - 42, TOP), width=3)
        sheet.line((right - 54, TOP - 8), (right - 40, TOP), (right - 54, TOP + 8), width=3)
        sheet.text((left + right) / 2, TOP - 26, scale, 15)
    sheet.text(96, TOP, "from no condition", 15, SOFT)
    sheet.text(96, TOP + 20, "to all of them", 15, SOFT)
    sheet.text(96, FIRST_ROW - 52, "reference / audio / text", 13, SOFT)
    sheet.text(890, FIRST_ROW - 52, "per step", 13, SOFT)
    for number, setting in enumerate(SETTINGS):
        y = FIRST_ROW + number * ROW
        sheet.line((24, y - ROW / 2), (WIDTH - 24, y - ROW / 2), fill=LINE, width=1)
        sheet.text(96, y, " / ".join(f"{scale:g}" for scale in setting), 18)
        run = stages_of(setting)
        for i, x in enumerate(CENTRES):
            sheet.disc(x, y, 10, fill=STAGES[i][2] if i in run else None, outline=None if i in run else LINE)
        sheet.text(890, y, f"{len(run)} model call{'s' if len(run) > 1 else ''}", 14)
    return sheet


def stages_of(setting: tuple[float, float, float]) -> set[int]:
    """Which stages of the chain a setting needs, by the same rule as sampling."""
    return {sum(branch) for branch in branch_weights(Scales(*setting))}


if __name__ == "__main__":
    draw().save(HERE / "guidance.png")
