"""Cache of everything about a film that stays constant during a run: clips' moments, portraits, text, audio, face.

Each kind has its own file, named by a hash of the film's content, the settings and the network that computed it. If
the film, size or network changes, so does the name, so the cache is never stale.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ..clips import FRAMES_PER_CLIP, MOTION_FRAMES
from ..errors import InputError
from ..film.fingerprint import digest
from ..inputs.audio import REACH
from ..inputs.face import Face
from ..inputs.recording import Recording
from ..weights.reading import read_tensors
from . import geometry
from .batch import frame_moments
from .config import Data
from .encoders import Encoders
from .films import Film

VERSION = 1  # of the computation: raise it when the results change
LOOKED_AT = 25  # frames of a film in which its face is looked for
PIXELS_AT_ONCE = 2**25  # per VAE call: two clips of the released size, many of the toy's
STORED = torch.float16  # dtype of moments: more precise than the bf16 of the original's VAE
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A film's constant inputs, on the CPU, possibly memory-mapped.

    clip ``k 32 13 h w`` with start frames ``k``; motion ``k 3 2 H W`` and portrait ``r 3 H W``, uint8; masked
    ``r 32 1 h w``; text ``m w``; face ``512``; audio ``n l d``. Face and audio are None if the mode does not use them.
    weight: of each latent cell in the loss, ``h w``; None: all count the same. sound: reads the film's, for previews.
    """

    name: str
    identity: str
    consent: str
    clip: Tensor
    starts: Tensor
    motion: Tensor
    portrait: Tensor
    masked: Tensor
    text: Tensor
    face: Tensor | None
    audio: Tensor | None
    weight: Tensor | None = None
    sound: Callable[[], Recording] | None = None


def cache_films(
    films: Iterable[Film],
    encoders: Encoders,
    data: Data,
    folder: Path | None,
    *,
    with_face: bool = True,
    with_audio: bool = True,
    motion_frames: int = MOTION_FRAMES,
) -> list[Entry]:
    """Returns every film's entry, read from the folder or computed and written to it. Folder None keeps them in memory.

    Raises:
        InputError: a film cannot be used (the message names it), or the folder cannot be written.
    """
    texts: dict[str, Tensor] = {}
    entries = []
    for film in tqdm(list(films), desc="caching", unit="film", disable=None):
        entries.append(_entry(film, encoders, data, folder, texts, with_face, with_audio, motion_frames))
    return entries


def _entry(
    film: Film,
    encoders: Encoders,
    data: Data,
    folder: Path | None,
    texts: dict[str, Tensor],
    with_face: bool,
    with_audio: bool,
    motion_frames: int,
) -> Entry:
    pictures = _once(film.frames)
    weight = mouth_weight(film, pictures, data)
    size = tuple(data.size)
    settings = [size, data.windows, data.references, *([motion_frames] if motion_frames != MOTION_FRAMES else [])]

    def kept(kind: str, compute: Callable[[], dict[str, Tensor]], *settings: object) -> dict[str, Tensor]:
        network = (encoders.identity_of(kind), encoders.identity_of("dtype"))
        key = digest(VERSION, kind, film.identity, network, *settings)
        return _kept(folder, kind, key, lambda: _finite(compute(), film.name, kind))

    if film.box is None and film.boxes is None and film.mask is None:
        box = kept("oval", lambda: {"oval": _oval(film, pictures(), encoders)}, encoders.identity_of("face"))["oval"]
        film = replace(film, box=tuple(box.tolist()))
        settings.append(film.box)
    frames = kept("vae", lambda: _frames(film, pictures(), encoders, data, motion_frames), *settings)
    if film.caption not in texts:
        text = lambda: {"text": encoders.text(film.caption).cpu()}  # noqa: E731
        key = digest(VERSION, "text", film.caption, encoders.identity_of("text"), encoders.identity_of("dtype"))
        texts[film.caption] = _kept(folder, "text", key, text)["text"]
    face = audio = None
    if with_face:
        face = film.face if film.face is not None else kept("face", lambda: _face(film, pictures(), encoders))["face"]
        _finite({"face": face}, film.name, "face")
    if with_audio:
        audio = film.audio
        if audio is None:
            if film.sound is None or encoders.audio is None:
                raise InputError(f"{film.name}: has no sound, which this mode trains on.")
            audio = kept("audio", lambda: {"audio": encoders.audio(film.sound()).to(STORED).cpu()})["audio"]
        _finite({"audio": audio}, film.name, "audio")
        needed = int(frames["starts"].max()) + FRAMES_PER_CLIP
        if len(audio) < needed:
            raise InputError(
                f"{film.name}: {len(audio) / 25:.2f} s of sound, but {needed / 25:.2f} s of film are trained on. Cut "
                "the film to its sound."
            )
    text = texts[film.caption]
    own = dict(text=text, face=face, audio=audio, weight=weight, sound=film.sound)
    return Entry(film.name, film.identity, film.consent, **own, **frames)


def mouth_weight(film: Film, pictures: Callable[[], Tensor], data: Data) -> Tensor | None:
    """Weight ``h w`` of each latent cell in the loss: `data.mouth_weight` for those that the mouth's box touches,
    scaled to a mean of 1. None: all count the same.

    Raises:
        InputError: the film has no mouth box.
    """
    if data.mouth_weight == 1:
        return None
    if film.mouth is None:
        raise InputError(
            f"{film.name}: has no mouth_box, which data.mouth_weight needs. Add it, or set data.mouth_weight to 1."
        )
    *_, height, width = pictures().shape
    box = geometry.box_cells(torch.tensor(film.mouth), (height, width), tuple(data.size))
    weight = 1 + (data.mouth_weight - 1) * box
    return weight / weight.mean()


def window_starts(frames: int, count: int) -> Tensor:
    """Start frames of `count` clips, spread evenly over the original's range, so that audio windows stay inside the
    film. A film too short for those margins is used from its first frame."""
    first, last = REACH + 1, frames - FRAMES_PER_CLIP - REACH - 1
    if last < first:
        first, last = 0, frames - FRAMES_PER_CLIP
    return torch.linspace(first, last, min(count, last - first + 1), dtype=torch.float64).round().long()


@torch.no_grad()
def _frames(film: Film, frames: Tensor, encoders: Encoders, data: Data, motion_frames: int) -> dict[str, Tensor]:
    count, size, vae = len(frames), tuple(data.size), encoders.vae
    if frames.dtype != torch.uint8:
        raise InputError(f"{film.name}: frames of {frames.dtype}, expected bytes.")
    if count < FRAMES_PER_CLIP:
        raise InputError(f"{film.name}: {count} frames, but a clip has {FRAMES_PER_CLIP}. Use longer films.")
    starts = window_starts(count, data.windows)
    chosen = torch.linspace(0, count - 1, min(data.references, count), dtype=torch.float64).round().long()
    placed = geometry.squared if film.mask is not None else geometry.resized
    clips = placed(frames, size)
    portraits, masked = clips[chosen], torch.stack([_masked(film, frames, int(i), size) for i in chosen])
    place = next(vae.parameters())
    together = max(1, PIXELS_AT_ONCE // (FRAMES_PER_CLIP * size[0] * size[1]))
    moments = [
        vae.moments(
            torch.stack(
                [geometry.to_pixels(clips[s : s + FRAMES_PER_CLIP].to(place.device)).transpose(0, 1) for s in piece]
            )
        )
        for piece in starts.split(together)
    ]
    return {
        "clip": torch.cat(moments).to(STORED).cpu(),
        "starts": starts,
        "motion": torch.stack([clips[s : s + motion_frames].transpose(0, 1) for s in starts.tolist()]),
        "portrait": portraits.clone(),
        "masked": frame_moments(vae, geometry.to_pixels(masked).to(place.device)).to(STORED).cpu(),
    }


def _masked(film: Film, frames: Tensor, index: int, size: geometry.Size) -> Tensor:
    frame, (h, w) = frames[index], frames.shape[-2:]
    if film.mask is not None:
        if tuple(film.mask.shape) != (h, w):
            raise InputError(f"{film.name}: a mask of {list(film.mask.shape)} for frames of {[h, w]}.")
        return geometry.masked(frame, film.mask, size)
    if film.boxes is not None:
        if len(film.boxes) < len(frames):
            raise InputError(f"{film.name}: boxes for {len(film.boxes)} of {len(frames)} frames.")
        box = film.boxes[index]
    else:
        box = torch.tensor(film.box, dtype=torch.float64) / torch.tensor([w, h, w, h])
    return geometry.boxed(frame, box, size).float()


def _oval(film: Film, frames: Tensor, encoders: Encoders) -> Tensor:
    """The box of the face's oval in all frames looked at ``4``, pixels: the original masks training films so."""
    ovals = torch.tensor([face.oval for face in _faces(film, frames, encoders, LOOKED_AT)])
    return torch.cat([ovals[:, :2].amin(0), ovals[:, 2:].amax(0)])


def _face(film: Film, frames: Tensor, encoders: Encoders) -> dict[str, Tensor]:
    """The embedding of the first frame with a face, as in the original."""
    return {"face": next(_faces(film, frames, encoders, 10)).embedding.float().cpu()}


def _faces(film: Film, frames: Tensor, encoders: Encoders, count: int) -> Iterator[Face]:
    """The faces in about `count` frames, as far as there are any.

    Raises:
        InputError: there is none in any, or no analyser to find it.
    """
    if encoders.face is None:
        raise InputError(f"{film.name}: there is no face analyser to find its face.")
    missing, found = None, False
    for frame in frames[:: max(1, len(frames) // count)]:
        try:
            face = encoders.face(frame, film.name)
        except InputError as error:
            missing = error
            continue
        found = True
        yield face
    if not found:
        raise InputError(f"{film.name}: no face found in {count} of its frames. Leave the film out.") from missing


def _finite(tensors: dict[str, Tensor], name: str, kind: str) -> dict[str, Tensor]:
    for tensor in tensors.values():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{name}: its {kind} values are not finite (NaN or infinite). Leave the film out.")
    return tensors


def _kept(folder: Path | None, kind: str, key: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    if folder is None:
        return compute()
    path = folder / kind / f"{key}.safetensors"
    if not path.exists():
        tensors = {name: tensor.contiguous() for name, tensor in compute().items()}
        unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, unfinished)
            os.replace(unfinished, path)
        except Exception as error:  # safetensors wraps OSError
            unfinished.unlink(missing_ok=True)
            raise InputError(
                f"{path}: the cache cannot be written ({error}). Free some room, or set data.cache."
            ) from error
    return read_tensors(path)


def _once(read: Callable[[], Tensor]) -> Callable[[], Tensor]:
    found: list[Tensor] = []

    def once() -> Tensor:
        if not found:
            found.append(read())
        return found[0]

    return once
