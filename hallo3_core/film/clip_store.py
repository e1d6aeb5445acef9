"""Stores finished clips on disk, so that a run that was stopped can resume.

The store has two files for each clip: its frames as lossless video that any player can show, and its motion frames as
they were computed. A file gets its final name only when it is complete and on disk. Each clip also records the hash of
the motion frames it started from. So if a clip is made again with a different result, the stored clips after it are not
used.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..clips import FPS
from ..errors import InputError, require
from ..weights.disk import folder_to_disk, to_disk
from .clip_chain import Clip
from .fingerprint import Inputs, file_digest
from .takes import about_others, all_takes, encode_manifest, folder_for, read_manifest
from .work_folder import MANIFEST, PART, Keeping, WorkFolder, gigabytes

log = logging.getLogger(__name__)
FRAMES, MOTION = "clip_{:05}.mkv", "clip_{:05}.safetensors"  # numbered from 0 here, from 1 in messages
FILM_PART = "film" + PART + ".mp4"
LONGEST_NAME = 200  # bytes; file systems allow 255, and the work folder's name is longer than the film's
FIRST = "the portrait"  # stands for the motion frames that the first clip starts from


@dataclass(frozen=True)
class FilmPlan:
    """What the store needs to know about a film: its name in messages, number of clips, frame size and inputs."""

    name: str
    clips: int
    height: int
    width: int
    inputs: Inputs


def beside(output: Path) -> Path:
    """The work folder of a film file: hidden, in the same folder and therefore on the same disk."""
    name = output.name
    if len(os.fsencode(name)) > LONGEST_NAME:  # in bytes, as the file system counts; a name need not be UTF-8
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return output.with_name(f".{name}.work")


@contextmanager
def work_on(
    folder: Path, plan: FilmPlan, keeping: Keeping, way_out: str, tell: Callable[[str], None]
) -> Iterator[tuple[Path, ClipStore | None]]:
    """Yields the path of the unfinished film file, and the store of its clips (None if clips are not kept).

    way_out: what else the user can do if the disk is too small.
    tell: called with messages about what was found and how much disk space is needed.

    Raises:
        InputError: another run is making this film, the disk is too small, or the folder is not writable.
    """
    with WorkFolder(folder, plan.name) as work:
        store = None
        if keeping is not Keeping.NEVER:
            store = ClipStore(work, plan.inputs)
            if store.note:
                tell(store.note)
            need = work.check_room(plan.clips - store.finished, plan.height, plan.width, way_out)
            if need:
                tell(f"keeping finished clips in {folder}, about {gigabytes(need)}, {keeping.value}")
        yield folder / FILM_PART, store
        if keeping is not Keeping.ALWAYS:
            work.clear(folder_for(folder, plan.inputs, all_takes(folder)))


class ClipStore:
    """The clips of one film in its work folder, including those of an earlier run with the same inputs.

    folder: where they are; see `takes`.
    note: a message to the user about what was found; empty if there was nothing.
    """

    def __init__(self, work: WorkFolder, inputs: Inputs):
        """Removes damaged clips, and all of this take's if its manifest is damaged. Warns if there are clips of other
        inputs, which stay."""
        takes = all_takes(work.path)
        self.folder, self._inputs, self.note = folder_for(work.path, inputs, takes), inputs, ""
        self._clips = next((take.clips for take in takes if take.folder == self.folder), {})
        if self._clips:
            self._drop_damaged()
            self.note = self.note or f"{len(self._clips)} finished clips are there from an earlier run"
        elif read_manifest(self.folder / MANIFEST) is None:
            self.note = f"starting afresh: {self.folder / MANIFEST} is damaged"
        elif others := about_others(inputs, takes, work.path):
            log.warning("%s: %s", work.film, others)
        if not self._clips:
            work.clear(self.folder)

    @property
    def finished(self) -> int:
        """Number of stored clips."""
        return len(self._clips)

    def load(self, number: int) -> Clip | None:
        """The stored clip, or None if it is missing or does not follow from the previous clip."""
        record = self._clips.get(str(number))
        if record is None or record["after"] != self._motion_of(number - 1):
            return None
        from safetensors.torch import load

        return Clip(
            decode_frames((self.folder / FRAMES.format(number)).read_bytes()),
            load((self.folder / MOTION.format(number)).read_bytes())["motion"],
        )

    def save(self, number: int, clip: Clip) -> None:
        """Stores a clip that was made from the previous one.

        Raises:
            InputError: the disk is full, or the folder is gone. Clips stored earlier stay.
        """
        from safetensors.torch import save

        frames, motion = self.folder / FRAMES.format(number), self.folder / MOTION.format(number)
        try:
            if self.folder.parent.is_dir():
                self.folder.mkdir(mode=0o700, exist_ok=True)
            record = {
                "frames": _write(frames, encode_frames(clip.frames)),
                "motion": _write(motion, save({"motion": clip.motion.cpu().contiguous()})),
                "after": self._motion_of(number - 1),
            }
            clips = {**self._clips, str(number): record}
            _write(self.folder / MANIFEST, encode_manifest(self._inputs, clips))
        except OSError as error:
            raise InputError(
                f"{self.folder}: clip {number + 1} could not be kept ({error.strerror or error}). Check that the "
                "disk has space and the folder can be written to, then start again: the run resumes with this clip."
            ) from error
        self._clips = clips

    def _motion_of(self, number: int) -> str | None:
        """The hash of a clip's motion frames; None if the clip is not stored."""
        return FIRST if number < 0 else self._clips.get(str(number), {}).get("motion")

    def _drop_damaged(self) -> None:
        for number, record in list(self._clips.items()):
            for key, form in (("frames", FRAMES), ("motion", MOTION)):
                path = self.folder / form.format(int(number))
                if _digest_or_none(path) != record[key]:
                    log.warning("%s is damaged or missing: clip %d is made again", path, int(number) + 1)
                    self.note = f"clip {int(number) + 1} was damaged and is made again"
                    self._clips.pop(number, None)


def encode_frames(frames: Tensor) -> bytes:
    """Encodes frames ``n h w 3``, uint8, losslessly as FFV1 video in Matroska. In memory, because ffmpeg does not
    always report a full disk."""
    av = require("av", "av", "keeping clips")
    content = io.BytesIO()
    with av.open(content, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=FPS, options={"level": "3"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        for frame in frames.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return content.getvalue()


def decode_frames(content: bytes) -> Tensor:
    """Decodes the output of `encode_frames` to ``n h w 3``, uint8."""
    av = require("av", "av", "reading clips")
    with av.open(io.BytesIO(content)) as container:
        frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return torch.stack(frames)


def _write(path: Path, content: bytes) -> str:
    """Writes a file and returns its SHA-256. It gets its final name only when it is complete and on disk.

    Raises:
        OSError: the disk is full, or the folder is gone.
    """
    part = path.with_name(path.name + PART)
    try:
        with open(part, "wb") as file:
            file.write(content)
            to_disk(file)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    folder_to_disk(path.parent)
    return hashlib.sha256(content).hexdigest()


def _digest_or_none(path: Path) -> str | None:
    try:
        return file_digest(path)
    except OSError:
        return None
