"""Cache of everything about a film that stays constant during a run: clips' moments, portraits, text, audio, face.

Each kind has its own files, named by a hash of what it was computed from: the film's content, the settings and the
network. If one of them changes, so does the name, so the cache is never stale, and nothing else is computed again.
Memory is flat: a film is decoded frame by frame, and its clips are kept in files of a minute.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..clips import FPS, FRAMES_PER_CLIP, MOTION_FRAMES
from ..errors import InputError
from ..film.fingerprint import digest
from ..inputs.face import Face
from ..inputs.recording import Recording
from . import geometry
from .batch import frame_moments
from .config import Data
from .encoders import Encoders
from .film import FilmError, Pictures, TrainingFilm
from .films import refusal
from .placing import Placing, placing
from .processes import Processes
from .reading import film_sound, looked_at, read, window_starts, windows
from .stored import Tensors, TensorStore

VERSION = 2  # of the computation: raise it when the results change
PIXELS_AT_ONCE = 2**25  # per VAE call: two clips of the released size, many of the toy's
CLIPS_PER_FILE = 32  # a minute of film; at the released size 0.2 GB of moments and motion frames
FACES_LOOKED_AT = 10  # frames of a film in which the face for its embedding is looked for
OVALS_LOOKED_AT = 25  # those in which its place is looked for, if its list does not say it
STORED = torch.float16  # dtype of moments: more precise than the bf16 of the original's VAE
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FilmEntry:
    """Constant inputs of a film's clips, on the CPU, possibly memory-mapped. A film of more than a minute has several
    entries, which share everything but their clips.

    film: the film's number in its list; clip ``k 32 13 h w`` with start frames ``k``; motion ``k 3 2 H W`` and portrait
    ``r 3 H W``, uint8; masked ``r 32 1 h w``; text ``m w``; face ``512``; audio ``n l d``. Face and audio are None if
    the mode does not use them. weight: of each latent cell in the loss, ``h w``; None: all count the same. frames: of
    the whole film. sound: reads the film's, for previews.
    """

    film: int
    name: str
    identity: str
    consent: str
    frames: int
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
    films: Sequence[TrainingFilm],
    encoders: Encoders,
    data: Data,
    folder: Path | None,
    *,
    with_face: bool = True,
    with_audio: bool = True,
    motion_frames: int = MOTION_FRAMES,
    processes: Processes | None = None,
) -> list[FilmEntry]:
    """Returns the films' entries, read from the folder or computed and written to it. Folder None keeps them in memory.
    Several processes share the work; then each reads all.

    Raises:
        InputError: films cannot be used (the message names each), or the folder cannot be written. With
            `data.skip_bad` such films are left out with a warning, unless none is left.
    """
    store, texts = TensorStore(folder), {}

    def work(number: int) -> list[FilmEntry]:
        cached = CachedFilm(films[number], number, encoders, data, store, with_face, with_audio, motion_frames)
        return cached.entries(texts)

    if processes is not None and processes.count > 1 and folder is not None:
        for number in range(processes.rank, len(films), processes.count):
            try:
                work(number)
            except FilmError:
                continue  # every process meets it again below, so all end alike
        processes.wait()
    entries, wrong = [], []
    for number in tqdm(range(len(films)), desc="caching", unit="film", disable=None):
        try:
            entries += work(number)
        except FilmError as error:
            wrong.append(str(error))
    if wrong and not (data.skip_bad and entries):
        raise InputError(refusal(wrong))
    for problem in wrong:
        log.warning("left out: %s", problem)
    return entries


@dataclass(frozen=True)
class CachedFilm:
    """One film's constant inputs; see `cache_films`."""

    film: TrainingFilm
    number: int
    encoders: Encoders
    data: Data
    store: TensorStore
    with_face: bool
    with_audio: bool
    motion_frames: int

    def entries(self, texts: dict[str, Tensor]) -> list[FilmEntry]:
        """The film's entries. `texts` holds encoded captions, so that equal ones are one tensor."""
        film, size = self.film, tuple(self.data.size)
        look = looked_at(film)
        if film.box is None and film.boxes is None and film.mask is None:
            found = replace(film, box=tuple(self._oval(look).tolist()))
            return replace(self, film=found).entries(texts)
        place = placing(film, look, size)
        starts = window_starts(look.count, self.data.windows)
        clips = self._clips(look, place, starts)
        portraits = self._portraits(look, place)
        if film.caption not in texts:
            texts[film.caption] = self._one("text", lambda: self.encoders.text(film.caption), film.caption)
        shared = dict(
            film=self.number,
            name=film.name,
            identity=film.identity,
            consent=film.consent,
            frames=look.count,
            text=texts[film.caption],
            face=self._face(look) if self.with_face else None,
            audio=self._audio(int(starts.max()) + FRAMES_PER_CLIP) if self.with_audio else None,
            weight=mouth_weight(film, place, self.data),
            sound=film.sound,
            **portraits,
        )
        return [FilmEntry(**shared, **part) for part in clips]

    def _kept(self, kind: str, compute: Callable[[], Tensors], *settings: object) -> Tensors:
        network = (self.encoders.identity_of(kind), self.encoders.identity_of("dtype"))
        make = lambda: {name: tensor.cpu() for name, tensor in _finite(compute(), self.film.name, kind).items()}  # noqa: E731
        return self.store.computed(kind, digest(VERSION, kind, network, *settings), make)

    def _one(self, kind: str, compute: Callable[[], Tensor], *settings: object) -> Tensor:
        return self._kept(kind, lambda: {kind: compute()}, *settings)[kind]

    @torch.no_grad()
    def _clips(self, look: Pictures, place: Placing, starts: Tensor) -> list[Tensors]:
        """Moments, motion frames and starts of the film's clips, a dictionary per file; one pass over the film makes
        those that are missing."""
        film, motion = self.film, self.motion_frames
        network = (self.encoders.identity_of("vae"), self.encoders.identity_of("dtype"))
        shared = (VERSION, "vae", network, film.look_identity, place, film.mask is not None, motion)
        parts = [(digest(*shared, part.tolist()), part) for part in starts.split(CLIPS_PER_FILE)]
        found = {key: self.store.get("vae", key) for key, _ in parts}
        missing = [(key, part) for key, part in parts if found[key] is None]
        found_windows = windows(look, place, [start for _, part in missing for start in part.tolist()])
        for key, part in missing:
            moments, motions = [], []
            for piece in part.split(max(1, PIXELS_AT_ONCE // (FRAMES_PER_CLIP * place.pixels))):
                clips = torch.stack([next(found_windows) for _ in piece])
                motions.append(clips[:, :motion].transpose(1, 2))
                moments.append(self._moments(clips))
            tensors = {"clip": torch.cat(moments), "starts": part, "motion": torch.cat(motions)}
            found[key] = self.store.put("vae", key, _finite(tensors, film.name, "vae"))
        return [found[key] for key, _ in parts]

    def _moments(self, clips: Tensor) -> Tensor:
        vae = self.encoders.vae
        pixels = geometry.to_pixels(clips.to(next(vae.parameters()).device)).transpose(1, 2)
        return vae.moments(pixels).to(STORED).cpu()

    @torch.no_grad()
    def _portraits(self, look: Pictures, place: Placing) -> Tensors:
        """The frames that can serve as the portrait: as they are, and encoded with all but the face masked."""
        vae = self.encoders.vae
        count = min(self.data.references, look.count)
        chosen = torch.linspace(0, look.count - 1, count, dtype=torch.float64).round().long().tolist()

        def compute() -> Tensors:
            frames = list(read(self.film, look, chosen))
            masked = torch.stack([place.masked(frame, number) for number, frame in zip(chosen, frames, strict=True)])
            device = next(vae.parameters()).device
            return {
                "portrait": torch.cat([place.frames(frame[None]) for frame in frames]),
                "masked": frame_moments(vae, geometry.to_pixels(masked).to(device)).to(STORED),
            }

        network = self.encoders.identity_of("vae")
        return self._kept("portrait", compute, network, self.film.look_identity, self.film.region, place, count)

    def _oval(self, look: Pictures) -> Tensor:
        """The box of the largest face's oval in all frames looked at ``4``, pixels: the original masks films so."""

        def compute() -> Tensor:
            ovals = torch.tensor([faces[0].oval for _, faces in self._found(look, OVALS_LOOKED_AT)])
            return torch.cat([ovals[:, :2].amin(0), ovals[:, 2:].amax(0)])

        return self._one("face", compute, "oval", self.film.look_identity)

    def _face(self, look: Pictures) -> Tensor:
        """The film's embedding, else that of the first frame that shows the face inside its box, as in the original."""
        film = self.film
        if film.face is not None:
            return _finite({"face": film.face}, film.name, "face")["face"]

        def compute() -> Tensor:
            elsewhere = None
            for number, faces in self._found(look, FACES_LOOKED_AT):
                for face in faces:
                    if _is_inside(face.box, film.face_box(number, look)):
                        return face.embedding.float()
                    elsewhere = elsewhere or [round(side) for side in face.box]
            box = [round(side) for side in film.face_box(0, look)]
            raise FilmError(f"{film.name}: no face inside face_box {box}; one was found at {elsewhere}.")

        return self._one("face", compute, film.look_identity, film.region)

    def _found(self, look: Pictures, count: int) -> Iterator[tuple[int, Sequence[Face]]]:
        """The faces in about `count` frames that have any, and the frames' numbers.

        Raises:
            FilmError: no frame has any.
        """
        film, faces_in, found = self.film, self.encoders.faces, False
        if faces_in is None:
            raise InputError(f"{film.name}: no face analyser is loaded to find its face.")
        numbers = range(0, look.count, max(1, look.count // count))
        for number, frame in zip(numbers, read(film, look, numbers), strict=True):
            if faces := faces_in(frame):
                found = True
                yield number, faces
        if not found:
            raise FilmError(f"{film.name}: no face found in {len(numbers)} of its frames.")

    def _audio(self, needed: int) -> Tensor:
        film, encoders = self.film, self.encoders
        audio = film.audio
        if audio is None:
            if film.sound is None or encoders.audio is None:
                raise FilmError(f"{film.name}: has no sound, which this mode trains on.")
            audio = self._one("audio", lambda: encoders.audio(film_sound(film)).to(STORED), film.sound_identity)
        _finite({"audio": audio}, film.name, "audio")
        if len(audio) < needed:
            raise FilmError(
                f"{film.name}: {len(audio) / FPS:.2f} s of sound, but {needed / FPS:.2f} s of video are trained on. "
                "Cut the video to its sound."
            )
        return audio


def mouth_weight(film: TrainingFilm, place: Placing, data: Data) -> Tensor | None:
    """Weight ``h w`` of each latent cell in the loss: `data.mouth_weight` for those that the mouth's box touches,
    scaled to a mean of 1. None: all count the same.

    Raises:
        FilmError: the film has no mouth box.
    """
    if data.mouth_weight == 1:
        return None
    if film.mouth is None:
        raise FilmError(
            f"{film.name}: has no mouth_box, which data.mouth_weight needs. Add it, or set data.mouth_weight to 1."
        )
    weight = 1 + (data.mouth_weight - 1) * geometry.box_cells(place.box(film.mouth), place.size)
    return weight / weight.mean()


def _is_inside(face: Sequence[float], box: Sequence[float]) -> bool:
    """Whether at least half of a found face lies inside the film's face box."""
    across = min(face[2], box[2]) - max(face[0], box[0])
    down = min(face[3], box[3]) - max(face[1], box[1])
    return across > 0 and down > 0 and across * down >= 0.5 * (face[2] - face[0]) * (face[3] - face[1])


def _finite(tensors: Tensors, name: str, kind: str) -> Tensors:
    for tensor in tensors.values():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise FilmError(f"{name}: its {kind} values are not finite (NaN or infinite).")
    return tensors
