"""The picture of a workflow in the template browser: frames of a video that it made.

    python -m tools.workflows.thumbnails hallo3_long_video frame1.png frame2.png frame3.png

The first frame is large, up to three more stand beside it. A video serves in place of frames: some are taken from it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

FOLDER = Path(__file__).parents[2] / "workflows"
SIZE, EDGE = (800, 500), 6
BESIDE = 3
BACKGROUND = (24, 24, 24)
VIDEOS = (".mp4", ".mov", ".webm")


def thumbnail(frames: Sequence[Image.Image]) -> Image.Image:
    """Makes an 800 x 500 picture: a single frame fills it; more become a large one and a column of small ones.

    Raises:
        ValueError: no frame, or more than four.
    """
    if not 1 <= len(frames) <= 1 + BESIDE:
        raise ValueError(f"{len(frames)} frames: give 1 to {1 + BESIDE}")
    width, height = SIZE
    sheet = Image.new("RGB", SIZE, BACKGROUND)
    first, *others = (frame.convert("RGB") for frame in frames)
    small = (height - EDGE * (BESIDE - 1)) // BESIDE if others else 0
    large = width - (small + EDGE if others else 0)
    sheet.paste(ImageOps.fit(first, (large, height), Image.LANCZOS))
    for row, frame in enumerate(others):
        sheet.paste(ImageOps.fit(frame, (small, small), Image.LANCZOS), (large + EDGE, row * (small + EDGE)))
    return sheet


def read_frames(paths: Sequence[Path]) -> list[Image.Image]:
    """Reads the pictures, or four frames of a video, evenly spaced."""
    if len(paths) == 1 and paths[0].suffix.lower() in VIDEOS:
        from hallo3_core.film.writer import read_film

        frames = read_film(paths[0])[0]
        count = len(frames)
        return [Image.fromarray(frames[(2 * i + 1) * count // 8].numpy()) for i in range(1 + BESIDE)]
    return [Image.open(path) for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workflow", help="its name, such as hallo3_long_video")
    parser.add_argument("frames", nargs="+", type=Path, help="1 to 4 pictures, or a video")
    given = parser.parse_args()
    if not (FOLDER / f"{given.workflow}.json").is_file():
        parser.error(f"there is no workflow {given.workflow}")
    sheet = thumbnail(read_frames(given.frames))
    sheet.save(FOLDER / f"{given.workflow}.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main()
