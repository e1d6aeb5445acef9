"""Finished clips on disk: what a run that was stopped has done is not done again.

Of each clip its frames, as lossless video that any player shows, and its motion frames as they were computed, each
under its own name only when it is whole and on the disk; and a manifest of what the film is made of and of the files'
hashes. A clip also names the motion frames that it was made from, so none follows a clip that was made again and came
out differently.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
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
from ..weights.disk import to_disk
from .clip_chain import Clip
from .fingerprint import Inputs, differences, file_digest
from .work_folder import MANIFEST, PART, Keeping, WorkFolder, gigabytes

log = logging.getLogger(__name__)
FORMAT = 1
FRAMES, MOTION = "clip_{:05}.mkv", "clip_{:05}.safetensors"  # clips count from 0 here, in words from 1
FILM_PART = "film" + PART + ".mp4"
LONGEST_NAME = 200  # bytes; file systems take 255, and ours is longer
FIRST = "the portrait"  # what the first clip is made from, in place of motion frames


@dataclass(frozen=True)
class FilmPlan:
    """What a store has to know of a film: its name for messages, clips, picture size, and what it is made of."""

    name: str
    clips: int
    height: int
    width: int
    inputs: Inputs


def beside(output: Path) -> Path:
    """The work folder of a film file: hidden, in the same folder, so on the same disk."""
    name = output.name
    if len(os.fsencode(name)) > LONGEST_NAME:  # as the disk counts; a name need not be UTF-8
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return output.with_name(f".{name}.work")


@contextmanager
def work_on(
    folder: Path, plan: FilmPlan, keeping: Keeping, way_out: str, tell: Callable[[str], None]
) -> Iterator[tuple[Path, ClipStore | None]]:
    """The place of the unfinished film file and the store of its clips, None where none are kept.

    way_out: what else to do where the disk is too small. `tell` hears what was found and what room is needed.

    Raises:
        InputError: another run works on this film, or there is no room or no right to write.
    """
    with WorkFolder(folder, plan.name) as work:
        store = None
        if keeping is Keeping.NEVER:
            work.clear()
        else:
            store = ClipStore(work, plan.inputs)
            if store.note:
                tell(store.note)
            need = work.check_room(plan.clips - store.finished, plan.height, plan.width, way_out)
            if need:
                tell(f"keeping finished clips in {folder}, about {gigabytes(need)}, {keeping.value}")
        yield folder / FILM_PART, store
        if keeping is not Keeping.ALWAYS:
            work.clear()


class ClipStore:
    """The clips of one film in its work folder, of which another run may have left some.

    note: what was found there, in words for the user; empty when there was nothing.
    """

    def __init__(self, folder: WorkFolder, inputs: Inputs):
        """Clips made of other inputs, or under a manifest that is damaged, are removed; so are damaged clips."""
        self._folder, self._inputs, self._clips = folder.path, inputs, {}
        found, self.note = _read_manifest(folder.path / MANIFEST)
        if found and (changed := differences(found["inputs"], inputs)):
            self.note = f"starting afresh: {changed}"
        elif found:
            self._clips = found["clips"]
            self._drop_damaged()
            if not self.note:
                self.note = f"{len(self._clips)} finished clips are there from an earlier run" if self._clips else ""
        if not self._clips:
            folder.clear()

    @property
    def finished(self) -> int:
        """How many clips are there."""
        return len(self._clips)

    def load(self, number: int) -> Clip | None:
        """A clip that is there and follows from the one before."""
        record = self._clips.get(str(number))
        if record is None or record["after"] != self._motion_of(number - 1):
            return None
        from safetensors.torch import load

        return Clip(
            decode_frames((self._folder / FRAMES.format(number)).read_bytes()),
            load((self._folder / MOTION.format(number)).read_bytes())["motion"],
        )

    def save(self, number: int, clip: Clip) -> None:
        """Keep a clip, made from the one before.

        Raises:
            InputError: the disk is full, or the folder is gone. Clips kept before stay.
        """
        from safetensors.torch import save

        frames, motion = self._folder / FRAMES.format(number), self._folder / MOTION.format(number)
        try:
            record = {
                "frames": _write(frames, encode_frames(clip.frames)),
                "motion": _write(motion, save({"motion": clip.motion.cpu().contiguous()})),
                "after": self._motion_of(number - 1),
            }
            clips = {**self._clips, str(number): record}
            _write(self._folder / MANIFEST, _manifest(self._inputs, clips))
        except OSError as error:
            raise InputError(
                f"{self._folder}: clip {number + 1} could not be kept ({error.strerror or error}). See that there is "
                "room and that the folder can be written to, and start again: it goes on where it stopped."
            ) from error
        self._clips = clips

    def _motion_of(self, number: int) -> str | None:
        """The hash of a clip's motion frames; None where the clip is not there."""
        return FIRST if number < 0 else self._clips.get(str(number), {}).get("motion")

    def _drop_damaged(self) -> None:
        for number, record in list(self._clips.items()):
            for key, form in (("frames", FRAMES), ("motion", MOTION)):
                path = self._folder / form.format(int(number))
                if _digest_or_none(path) != record[key]:
                    log.warning("%s is damaged or missing: clip %d is made again", path, int(number) + 1)
                    self.note = f"clip {int(number) + 1} was damaged and is made again"
                    self._clips.pop(number, None)


def encode_frames(frames: Tensor) -> bytes:
    """Frames ``n h w 3``, uint8, as FFV1 video in Matroska: without any loss. In memory, since a full disk does not
    always reach us through ffmpeg."""
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
    """What `encode_frames` made, ``n h w 3``, uint8."""
    av = require("av", "av", "reading clips")
    with av.open(io.BytesIO(content)) as container:
        frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return torch.stack(frames)


def _write(path: Path, content: bytes) -> str:
    """Write a file, which has its name only when it is whole and on the disk; its SHA-256.

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
    _sync_folder(path.parent)
    return hashlib.sha256(content).hexdigest()


def _sync_folder(folder: Path) -> None:
    """A new name is on the disk only when its folder is; systems that cannot do this do it by themselves."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _manifest(inputs: Inputs, clips: dict) -> bytes:
    content = {"format": FORMAT, "inputs": inputs, "clips": clips}
    return json.dumps({**content, "hash": _hash(content)}, indent=1).encode()


def _read_manifest(path: Path) -> tuple[dict | None, str]:
    """A manifest that is whole, or None and why not."""
    try:
        content = json.loads(path.read_bytes())
        if content.pop("hash") == _hash(content) and content["format"] == FORMAT:
            return content, ""
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        pass
    return None, f"starting afresh: {path} is damaged"


def _hash(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_or_none(path: Path) -> str | None:
    try:
        return file_digest(path)
    except OSError:
        return None
