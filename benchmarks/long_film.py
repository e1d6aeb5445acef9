"""How a long film of the toy holds: sync, identity and colours of its last clips against its first, and its seams.

    python benchmarks/long_film.py [--clips 50] [--person 19] [--holds 0 1] [--output FILE.json]

A held-out person's portrait (PNG) and speech (MP3) go through the whole command line, and the finished MP4 is measured
with the drawn world's instruments, once for each value of `--color-hold`. The results are for the toy.
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

from benchmarks.effect_parts.experiments import PLAIN
from benchmarks.effect_parts.reading import likeness
from benchmarks.measuring import machine, report
from hallo3_core.cli.main import main as hallo3
from hallo3_core.clips import NEW_FRAMES_PER_CLIP
from hallo3_core.errors import InputError
from hallo3_core.inputs.recording import VOICE_RATE
from hallo3_core.toy.learnt_release import write_toy_release
from hallo3_core.toy.world.films import HELD_OUT, Film, draw_film
from hallo3_core.toy.world.instruments import measure, sync
from hallo3_core.train.films import read_frames

ENDS = 5  # clips at each end that are compared


def write_mp3(samples: np.ndarray, path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mp3", rate=VOICE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples[None], np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = VOICE_RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


def made(film: Film, release: Path, folder: Path, hold: float) -> np.ndarray:
    """The film's frames ``n h w 3``, from the command line."""
    Image.fromarray(film.frames[0]).save(folder / "portrait.png")
    write_mp3(film.speech.samples, folder / "speech.mp3")
    scales = PLAIN.guidance.scales
    words = ["animate", "--image", folder / "portrait.png", "--audio", folder / "speech.mp3", "--prompt", film.caption]
    words += ["--models", release, "--output", folder / f"{hold:g}.mp4", "--color-hold", hold, "--device", "cpu"]
    words += ["--steps", PLAIN.steps, "--sampler", PLAIN.sampler, "--no-resume"]
    words += ["--audio-cfg", scales.audio, "--text-cfg", scales.text]
    if hallo3([str(word) for word in words]):
        raise SystemExit("no film was made; the message is above")
    return read_frames(folder / f"{hold:g}.mp4").permute(0, 2, 3, 1).numpy()


def clip_readings(frames: np.ndarray, film: Film, person: int, release: Path) -> list[dict]:
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
    """Means over the first and the last clips, and the mean change from frame to frame at seams and inside clips."""
    changes = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean((1, 2, 3)) / 255
    at_seam = np.arange(1, len(frames)) % NEW_FRAMES_PER_CLIP == 0
    means = {
        name: means_of(part)
        for name, part in ((f"first {ENDS} clips", rows[:ENDS]), (f"last {ENDS} clips", rows[-ENDS:]), ("all", rows))
    }
    seams = {"at seams": changes[at_seam], "inside clips": changes[~at_seam]}
    return means | {f"change {name}": round(float(values.mean()), 5) for name, values in seams.items()}


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
    parser.add_argument("--holds", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--picture", type=Path, help="the first, middle and last frame of the last film, side by side")
    args = parser.parse_args()
    film = draw_film(HELD_OUT[args.person], args.clips * NEW_FRAMES_PER_CLIP)
    found = {"clips": args.clips, "person": args.person, "steps": PLAIN.steps, "sampler": PLAIN.sampler}
    with tempfile.TemporaryDirectory() as folder:
        release = write_toy_release(Path(folder) / "toy")
        for hold in args.holds:
            frames = made(film, release, Path(folder), hold)
            rows = clip_readings(frames, film, args.person, release)
            rounded = [{key: round(value, 4) for key, value in row.items()} for row in rows]
            found[f"color hold {hold:g}"] = {**summary(rows, frames), "by clip": rounded}
            report({**found, **machine("cpu", torch.float32)}, args.output)
            if args.picture:
                shown = frames[[0, len(frames) // 2, len(frames) - 1]]
                Image.fromarray(np.concatenate(shown, axis=1)).save(args.picture, quality=88)


if __name__ == "__main__":
    main()
