"""A contact sheet: a labelled grid of pictures for visual comparison."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import require

PAPER, INK = 24, 235  # levels in 0..255
FONT_SHARE = 12  # lines of text per picture height
SMALLEST_FONT = 10
GAP = 4  # pixels between pictures


def contact_sheet(
    pictures: Sequence[Sequence[Tensor]], rows: Sequence[str], columns: Sequence[str], title: str
) -> Tensor:
    """Draws rows of pictures ``3 h w`` in 0..1, all of the same size, under a title: ``3 H W`` on the CPU.

    The sheet's size depends on the size and number of the pictures and on the row labels. A title that is too long is
    cut off. Pictures are not scaled.

    Raises:
        ValueError: the number of pictures does not match the labels, or the pictures differ in size.
    """
    sizes = {tuple(picture.shape) for row in pictures for picture in row}
    if len(sizes) != 1 or [len(row) for row in pictures] != [len(columns)] * len(rows):
        raise ValueError(f"expected {len(rows)} rows of {len(columns)} pictures of one size, found sizes {sizes}")
    _, height, width = sizes.pop()
    fonts = require("PIL.ImageFont", "pillow", "labels on pictures")
    font = fonts.load_default(max(SMALLEST_FONT, height // FONT_SHARE))
    line = sum(font.getmetrics()) + GAP
    margin = max(_text_width(font, label) for label in rows) + 2 * GAP
    top = 2 * line + GAP
    sheet = torch.full((3, top + len(rows) * (height + GAP), margin + len(columns) * (width + GAP)), PAPER / 255)
    labels = [(title, GAP, 0)]
    labels += [(label, margin + i * (width + GAP), line) for i, label in enumerate(columns)]
    for j, row in enumerate(pictures):
        y = top + j * (height + GAP)
        labels.append((rows[j], GAP, y + (height - line) // 2))
        for i, picture in enumerate(row):
            x = margin + i * (width + GAP)
            sheet[:, y : y + height, x : x + width] = picture
    return _with_labels(sheet, labels, font)


def _with_labels(sheet: Tensor, labels: Sequence[tuple[str, int, int]], font) -> Tensor:
    """Draws (text, x, y) labels on the sheet ``3 H W`` through a mask, so that other pixels keep their exact values."""
    import numpy  # for Pillow's pixels

    images = require("PIL.Image", "pillow", "labels on pictures")
    draws = require("PIL.ImageDraw", "pillow", "labels on pictures")
    mask = images.new("L", (sheet.shape[2], sheet.shape[1]))
    draw = draws.Draw(mask)
    for text, x, y in labels:
        draw.text((x, y), text, fill=255, font=font)
    shown = torch.from_numpy(numpy.array(mask)).float() / 255
    return torch.lerp(sheet, torch.full_like(sheet, INK / 255), shown)


def _text_width(font, text: str) -> int:
    left, _, right, _ = font.getbbox(text)
    return int(right - left)
