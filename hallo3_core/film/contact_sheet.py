"""A contact sheet: pictures in rows and columns with labels, to be compared by eye."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import require

PAPER, INK = 24, 235  # levels of 255
FONT_SHARE = 12  # a picture is as high as so many lines of text
SMALLEST_FONT = 10
GAP = 4  # pixels between pictures


def contact_sheet(
    pictures: Sequence[Sequence[Tensor]], rows: Sequence[str], columns: Sequence[str], title: str
) -> Tensor:
    """Rows of pictures ``3 h w`` in 0..1, all of one size, under a title, as ``3 H W`` on the CPU.

    The size depends on that of the pictures, their number and the row labels, not on the title, which is cut off where
    the sheet ends. Pictures are not scaled.

    Raises:
        ValueError: not a picture for each row and column, or pictures of several sizes.
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
    """The sheet ``3 H W`` with texts at their x and y, drawn through a mask: pictures beside them keep their values."""
    import numpy  # Pillow's way to hand out pixels

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
