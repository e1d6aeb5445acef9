"""How a long film of the toy holds: sync, identity and colours of its last clips against its first, and its seams.

    python benchmarks/long_film.py [--clips 50] [--person 19] [--output FILE.json] [--picture FILE]

A held-out person's portrait (PNG) and speech (MP3) go through the whole command line, and the finished MP4 is measured
with the drawn world's instruments: as it is, with `--color-hold`, and with `--seam-fade`. The results are for the toy.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.effect_parts.program import made
from hallo3_core.clips import FRAMES_PER_CLIP, MOTION_FRAMES, NEW_FRAMES_PER_CLIP
from hallo3_core.errors import InputError
from hallo3_core.inputs.image import to_uint8
from hallo3_core.pipeline.networks import Networks
from hallo3_core.pipeline.options import Options
from hallo3_core.release.layout import Release
from hallo3_core.toy.learnt_release import write_toy_release
from hallo3_core.toy.world.films import HELD_OUT, DrawnFilm, draw_film
from hallo3_core.toy.world.instruments import measure, sync
from hallo3_core.vae.autoencoder import LATENT_SCALE
from hallo3_core.vae.latents import decode_whole
from tools.testbed.measuring import machine, report
from tools.toy_films.films import PLAIN
from tools.toy_films.reading import likeness

VARIANTS = {"plain": (), "color hold 1": ("--color-hold", "1"), "seam fade 12": ("--seam-fade", "12")}
AROUND = 5  # frames before and after a place that is measured
THROUGH_VAE = 10  # clips of the drawn film that are only encoded and decoded
ENDS = 5  # clips at each end that are compared


def clip_readings(frames: np.ndarray, film: DrawnFilm, person: int, release: Path) -> list[dict]:
    """Each whole clip's sync, likeness to the portrait, and colours' distance from the portrait's; only `readable`,
    False, for a clip in which the instruments find no face of the drawn world."""
    portrait, rows = measure(film.frames[:1]), []
    for first in range(0, len(frames) - NEW_FRAMES_PER_CLIP + 1, NEW_FRAMES_PER_CLIP):
        part = slice(first, first + NEW_FRAMES_PER_CLIP)
        try:
            found = measure(frames[part])
        except InputError:
            rows.append({"readable": False})
            continue
        rows.append(
            {
                "readable": True,
                "sync": sync(found.mouth[:, 0], film.mouth[part, 0])[0],
                "likeness": likeness(torch.from_numpy(frames[part]), person, release)["likeness"],
                **{
                    name: float(np.abs(getattr(found, name) - getattr(portrait, name)).mean())
                    for name in ("skin", "hair", "clothes")
                },
            }
        )
    return rows


def summary(rows: list[dict], frames: np.ndarray) -> dict:
    """Means over the first and the last clips, and what changes from frame to frame at seams and inside clips."""
    means = {
        name: means_of(part)
        for name, part in ((f"first {ENDS} clips", rows[:ENDS]), (f"last {ENDS} clips", rows[-ENDS:]), ("all", rows))
    }
    return means | {"from frame to frame": seams(frames)}


def seams(frames: np.ndarray) -> dict[str, list[float]]:
    """The mean change from frame to frame, at seams and inside clips: of a channel (0..1), of the head's place (heights
    of the frame) and of the mouth's height (0..1). Head and mouth are measured in frames around seams and in the middle
    of clips."""
    changes = {"picture": np.abs(np.diff(frames.astype(np.float32), axis=0)).mean((1, 2, 3)) / 255}
    changes |= {"head": np.full(len(frames) - 1, np.nan), "mouth": np.full(len(frames) - 1, np.nan)}
    half = NEW_FRAMES_PER_CLIP // 2
    seam_frames = range(NEW_FRAMES_PER_CLIP, len(frames) - AROUND, NEW_FRAMES_PER_CLIP)
    for middle in (place for seam in seam_frames for place in (seam - half, seam)):
        first, stop = middle - AROUND, middle + AROUND
        try:
            found = measure(frames[first:stop])
        except InputError:
            continue
        changes["head"][first : stop - 1] = np.linalg.norm(np.diff(found.head[:, :2], axis=0), axis=1)
        changes["mouth"][first : stop - 1] = np.abs(np.diff(found.mouth[:, 0]))
    at_seam = np.arange(1, len(frames)) % NEW_FRAMES_PER_CLIP == 0
    return {
        name: [round(float(np.nanmean(values[part])), 5) for part in (at_seam, ~at_seam)]
        for name, values in changes.items()
    }


@torch.inference_mode()
def through_vae(film: DrawnFilm, release: Path) -> np.ndarray:
    """The start of the drawn film, encoded and decoded clip by clip: what clips with perfect latents would show."""
    with Networks(Release(release), Options(device="cpu", dtype=torch.float32)).vae() as vae:
        frames = []
        whole = len(film.frames) - FRAMES_PER_CLIP + 1
        for first in range(0, min(THROUGH_VAE * NEW_FRAMES_PER_CLIP, whole), NEW_FRAMES_PER_CLIP):
            part = np.ascontiguousarray(film.frames[first : first + FRAMES_PER_CLIP])
            pixels = torch.from_numpy(part).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
            mean, _ = vae.unchecked_moments(pixels).chunk(2, dim=1)
            frames.append(to_uint8(decode_whole(vae, LATENT_SCALE * mean)[MOTION_FRAMES:]))
    return torch.cat(frames).numpy()


def means_of(rows: list[dict]) -> dict:
    """The share of readable clips, and the means over these."""
    readable = [row for row in rows if row["readable"]]
    found = {"readable": round(len(readable) / len(rows), 3)}
    keys = [key for key in (readable[0] if readable else {}) if key != "readable"]
    return found | {key: round(float(np.mean([row[key] for row in readable])), 4) for key in keys}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--person", type=int, default=19, help="of the held-out people")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--picture", type=Path, help="the first, middle and last frame of the first film, side by side")
    args = parser.parse_args()
    film = draw_film(HELD_OUT[args.person], args.clips * NEW_FRAMES_PER_CLIP)
    found = {"clips": args.clips, "person": args.person, "steps": PLAIN.steps, "sampler": PLAIN.sampler}
    with tempfile.TemporaryDirectory() as folder:
        release = write_toy_release(Path(folder) / "toy")
        found["drawn film through the VAE"] = seams(through_vae(film, release))
        for name, options in VARIANTS.items():
            frames = made(film, release, Path(folder), *options)
            rows = clip_readings(frames, film, args.person, release)
            rounded = [{key: round(value, 4) for key, value in row.items()} for row in rows]
            found[name] = {**summary(rows, frames), "by clip": rounded}
            report({**found, **machine("cpu", torch.float32)}, args.output)
            if args.picture and not options:
                shown = frames[[0, len(frames) // 2, len(frames) - 1]]
                Image.fromarray(np.concatenate(shown, axis=1)).save(args.picture, quality=88)


if __name__ == "__main__":
    main()
