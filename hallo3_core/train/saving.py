"""What a run writes and goes on from: checkpoints, tied to the inputs that they depend on, and the result."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from ..errors import InputError
from ..model.hallo3 import Hallo3
from . import checkpoints
from .config import TrainingConfig
from .lora import FILE as LORA_FILE
from .lora import write_lora
from .materials import Materials
from .processes import Processes
from .result import result_name, transformer_tensors, write_result
from .samples import Samples
from .updater import Updater

FOLDER = "checkpoints"  # in the output folder
OTHER = {"start": "other weights", "data": "other data"}  # hashes, which say nothing to a person
log = logging.getLogger(__name__)


class SavableRun(Protocol):
    """What is saved of a run, and set again when it is resumed."""

    config: TrainingConfig
    materials: Materials
    samples: Samples
    networks: Hallo3
    updater: Updater
    processes: Processes
    dtype: torch.dtype
    step: int
    saved: int
    seconds: float


def identity_of(run: SavableRun) -> dict[str, str]:
    """What a checkpoint depends on: it can only be resumed with the same inputs."""
    config = run.config
    found = {
        "start": run.materials.start.identity,
        "data": run.materials.data_identity,
        "mode": config.mode,
        "seed": str(config.seed),
        "batch": str(config.batch),
        "conditioning": str(config.conditioning),
        "trains": str(config.trains),
        "updating": str(config.updating),
        "chances": str(config.chances),
    }
    for name in ("size", "windows", "references", "held_out", "mouth_weight"):  # they decide what a sample is
        found[f"data.{name}"] = str(getattr(config.data, name))
    return found | ({"lora": str(config.lora)} if config.mode == "lora" else {})


def save(run: SavableRun) -> None:
    """Writes a checkpoint of this step.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    info = {"seconds": run.seconds, "updates": run.updater.updates, **identity_of(run)}
    folder = run.config.output / FOLDER
    checkpoints.save(folder, run.step, run.updater.state(), info, run.processes, run.config.watch.checkpoints)


def resume(run: SavableRun) -> None:
    """Goes on from the newest complete checkpoint, if there is one.

    Raises:
        InputError: the checkpoint belongs to a run with other inputs.
    """
    found = checkpoints.latest(run.config.output / FOLDER)
    if found is None:
        return
    path, info = found
    for key, now in identity_of(run).items():
        if info.get(key, now) != now:
            what = OTHER.get(key, f"{key} {info.get(key)}, now {now}")
            raise InputError(
                f"{path}: belongs to a run with {what}. Go on with what it began with, or name another output."
            )
    state = run.updater.prepare_state()
    checkpoints.load(path, state, run.processes)
    run.updater.take_numbers(state)
    run.updater.updates, run.seconds = info["updates"], info["seconds"]
    run.step = run.saved = info["step"]
    run.updater.write()
    log.info("going on from %s", path)


def result_path(run: SavableRun) -> Path:
    """Where the result is written: a transformer file or a LoRA."""
    return run.config.output / (LORA_FILE if run.config.mode == "lora" else result_name(run.config.mode))


def is_finished(run: SavableRun) -> bool:
    """Whether a resumed run has no steps left and its result is there."""
    return run.step >= run.config.stop.steps and result_path(run).exists()


def write(run: SavableRun) -> Path:
    """Writes the result, a transformer file or a LoRA, and returns its path. All processes take part.

    Raises:
        InputError: the file cannot be written.
    """
    config, start = run.config, run.materials.start
    averaged, is_lora = bool(config.updating.average), config.mode == "lora"
    path = result_path(run)
    trained = run.updater.named_values(averaged)
    if run.processes.is_first:
        card = identity_of(run) | {
            "steps": run.step,
            "consent": run.materials.consent,
            "films": len({entry.film for entry in run.materials.entries}),
            "clips": run.samples.count,
            "trained": len(trained),
            "averaged": averaged,
        }
        if is_lora:
            write_lora(path, trained, config.lora, card, start.denoiser(), run.dtype)
        else:
            reads = replace(run.networks.denoiser.config.reads, reference=run.networks.reference_net is not None)
            write_result(path, transformer_tensors(start, run.networks, trained, run.dtype), card, reads)
    run.processes.wait()
    return path
