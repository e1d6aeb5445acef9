"""Checkpoints of a run: only the trained state, written atomically; incomplete ones are skipped."""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..errors import InputError
from ..weights.disk import folder_to_disk, to_disk
from .processes import Processes

INFO, UNFINISHED = "whole.json", ".unfinished"
READ = 16 << 20
log = logging.getLogger(__name__)


def save(folder: Path, step: int, state: Mapping[str, Tensor], info: dict, processes: Processes, keep: int) -> None:
    """Writes `step-N` into the folder: first the tensors, then the list of files with checksums, then the final name.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    import torch.distributed.checkpoint as dcp

    unfinished, target = folder / UNFINISHED, folder / f"step-{step:08d}"
    problem = None
    try:
        if processes.is_first:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        processes.wait()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.save(dict(state), checkpoint_id=unfinished, no_dist=processes.count == 1)
        if processes.is_first:
            files = {path.name: [path.stat().st_size, _checksum(path)] for path in sorted(unfinished.iterdir())}
            (unfinished / INFO).write_text(json.dumps({**info, "step": step, "files": files}))
            settle(unfinished)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(unfinished, target)
            for old in sorted(folder.glob("step-*"))[:-keep]:
                shutil.rmtree(old, ignore_errors=True)
    except (Exception, dcp.CheckpointException) as error:  # torch wraps the OSError of each process
        problem = error
        shutil.rmtree(unfinished, ignore_errors=True)
    if processes.agree(problem is not None):
        reason = str(problem).strip().splitlines()[-1] if problem else "see the first process"
        raise InputError(
            f"{folder}: the checkpoint of step {step} cannot be written ({reason}). Free some room, and start the same "
            "command again: it goes on from the checkpoint before."
        ) from problem
    processes.wait()


def latest(folder: Path) -> tuple[Path, dict] | None:
    """The newest complete checkpoint and its info; incomplete ones are skipped with a warning."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            info = json.loads((path / INFO).read_text())
            damaged = [name for name, (size, checksum) in info["files"].items() if not _is(path / name, size, checksum)]
        except (OSError, ValueError, KeyError, TypeError):
            damaged = [INFO]
        if not damaged:
            return path, info
        log.warning("%s: skipped, as it is not whole (%s is damaged or missing)", path, damaged[0])
    return None


def load(path: Path, state: dict[str, Tensor], processes: Processes) -> None:
    """Loads a checkpoint's tensors into `state`, in place.

    Raises:
        InputError: the checkpoint contains different tensors.
    """
    import torch.distributed.checkpoint as dcp

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(state, checkpoint_id=path, no_dist=processes.count == 1)
    except (Exception, dcp.CheckpointException) as error:
        reason = str(error).strip().splitlines()[-1][:120]
        raise InputError(f"{path}: is a checkpoint of other networks or another mode ({reason}).") from error


def _is(path: Path, size: int, checksum: int) -> bool:
    return path.stat().st_size == size and _checksum(path) == checksum


def _checksum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(READ):
            total = zlib.crc32(block, total)
    return total


def settle(folder: Path) -> None:
    """Flushes everything in a folder to disk, before the folder gets its final name."""
    for path in folder.iterdir():
        with path.open("rb+") as file:
            to_disk(file)
    folder_to_disk(folder)
