"""Films made by the whole command line: PNG and MP3 in, MP4 out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from hallo3_core.cli.main import main as hallo3
from hallo3_core.inputs.recording import VOICE_RATE
from hallo3_core.sampling.guidance import Scales
from hallo3_core.toy.world.films import DrawnFilm
from hallo3_core.train.films import read_frames
from tools.toy_films.films import PLAIN


def made(film: DrawnFilm, release: Path, folder: Path, *options: str, scales: Scales | None = None) -> np.ndarray:
    """Frames ``n h w 3`` of a drawn film's portrait and speech, with these options of the command line; the scales
    default to the plain ones."""
    scales = scales or PLAIN.guidance.scales
    Image.fromarray(film.frames[0]).save(folder / "portrait.png")
    write_mp3(film.speech.samples, folder / "speech.mp3")
    path = folder / f"film{film.seed}{''.join(options)}{scales.audio:g}.mp4"
    words = ["animate", "--image", folder / "portrait.png", "--audio", folder / "speech.mp3", "--prompt", film.caption]
    words += ["--models", release, "--output", path, "--device", "cpu", "--no-resume", *options]
    words += ["--steps", PLAIN.steps, "--sampler", PLAIN.sampler]
    words += ["--audio-cfg", scales.audio, "--text-cfg", scales.text, "--reference-cfg", scales.reference]
    if hallo3([str(word) for word in words]):
        raise SystemExit("no film was made; the message is above")
    return read_frames(path).permute(0, 2, 3, 1).numpy()


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
