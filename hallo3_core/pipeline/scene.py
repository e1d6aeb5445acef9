"""A film's inputs, read and checked before any network is loaded."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..film.fingerprint import MODEL_FILE, Inputs, describe, digest, file_identity, flat, versions
from ..inputs.image import GRID, Framing, plan_framing, read_image
from ..inputs.recording import Recording, read_recording
from ..model.config import TransformerConfig
from ..release.layout import Release
from .options import Options

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scene:
    """A film's inputs, read and checked: the picture ``1 3 h w`` in 0..1, its file name and framing, the recording and
    the prompt."""

    picture: Tensor
    name: str
    framing: Framing
    recording: Recording
    prompt: str


def read_scene(image: Path, audio: Path, prompt: str, config: TransformerConfig, options: Options) -> Scene:
    """Reads and checks a film's inputs.

    Raises:
        InputError: an unusable picture, recording or size.
    """
    picture = read_image(image)[None]
    height, width = picture.shape[-2:]
    size, mode = film_frame(options.size, options.framing, config, is_square=height == width)
    framing = plan_framing(height, width, *size, mode)
    return Scene(picture, image.name, framing, read_recording(audio, options.audio_track), prompt)


def film_frame(
    size: tuple[int, int] | None, framing: str, config: TransformerConfig, is_square: bool
) -> tuple[tuple[int, int], str]:
    """The film's height and width in pixels, and the framing mode for `plan_framing`.

    "native" gives a square portrait a square film, as high as the padded one would be. Its tokens keep the positions
    that they have in the padded film, and the black side tokens are not computed. Logs a warning if a size other than
    the trained one is requested.
    """
    trained = (config.grid.rows * GRID, config.grid.columns * GRID)
    if size is not None and size != trained:
        log.warning(
            "%dx%d: the model was trained on %dx%d (height x width) alone; other sizes work, with weaker results",
            *size,
            *trained,
        )
    size = size or trained
    if framing != "native":
        return size, framing
    return ((min(size), min(size)) if is_square else size), "auto"


def film_inputs(scene: Scene, release: Release, options: Options) -> Inputs:
    """The fingerprint inputs: everything that the clips of a film made from the command line depend on."""
    return {
        "portrait": digest(scene.picture),
        "recording": digest(scene.recording.waveform, scene.recording.rate, *scene.recording.speakers),
        "prompt": f"{scene.prompt!r}",
        "framing of the portrait": describe(scene.framing),
        **flat(options),
        "device": torch.device(options.device).type,
        **{MODEL_FILE + path.relative_to(release.folder).as_posix(): file_identity(path) for path in release.files()},
        **versions(),
    }
