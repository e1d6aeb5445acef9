"""The training loop: steps that can be interrupted, from initial weights to a transformer file or a LoRA.

What a run is built from is in `materials.py`, what it writes in `saving.py`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGTERM

import torch

from ..errors import InputError
from ..film.locking import try_lock
from ..pipeline.options import Settings
from . import saving
from .cache import FilmEntry
from .config import TrainingConfig, checked, write
from .draw import draw
from .draws import Keyed
from .encoders import Encoders
from .film import TrainingFilm
from .interrupting import Stopped, asked_to_stop
from .materials import DTYPES, build_networks, gather
from .networks import Layouts
from .preview import preview, sound_of, write_preview
from .processes import Processes, join
from .report import Losses, TrainingLog
from .samples import Mapped, Order, Resident, Samples
from .step import step
from .updater import Updater
from .validation import Validation, validate

UNUSABLE = 5  # steps in a row without a usable gradient that end a run
log = logging.getLogger(__name__)
GROUPS = ("self_attention", "face", "audio", "mlp", "modulation", "reference_net")


@dataclass(frozen=True)
class Result:
    """The result of a run: the transformer file, the number of steps, and the final losses."""

    path: Path
    steps: int
    loss: float | None
    validation_loss: float | None


def train(
    config: TrainingConfig,
    films: Sequence[TrainingFilm] | None = None,
    encoders: Encoders | None = None,
    entries: Sequence[FilmEntry] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Result:
    """Trains as configured, resuming from the newest checkpoint if there is one.

    films replaces `data.folder`; encoders replaces the release's; entries are films that are already cached. on_step is
    called after every step with its number.

    Raises:
        InputError: the configuration, the data or the initial weights cannot be used; the message says why.
        Stopped: the process was asked to stop; a checkpoint was written.
    """
    checked(config)
    processes = join(config.device, config.batch)
    if config.mode == "full":
        first = train_one(
            replace(config, mode="identity", output=config.output / "identity"),
            processes,
            films,
            encoders,
            entries,
            on_step,
        )
        second = replace(config, mode="audio", start=first.path, output=config.output / "audio")
        return train_one(second, processes, films, encoders, entries, on_step)
    return train_one(config, processes, films, encoders, entries, on_step)


def train_one(
    config: TrainingConfig,
    processes: Processes,
    films: Sequence[TrainingFilm] | None,
    encoders: Encoders | None,
    entries: Sequence[FilmEntry] | None,
    on_step: Callable[[int], None] | None,
) -> Result:
    """Runs one mode; see `train`."""
    lock = _prepared(config, processes)
    try:
        run = TrainingRun(config, processes, films, encoders, entries)
        with asked_to_stop() as stop:
            return run.to_the_end(stop, on_step)
    finally:
        if lock is not None:
            lock.release()


def _prepared(config: TrainingConfig, processes: Processes):
    """Locks the output folder against a second run."""
    if not processes.is_first:
        return None
    try:
        config.output.mkdir(parents=True, exist_ok=True)
        lock = try_lock(config.output / "lock")
        if lock is None:
            raise InputError(f"{config.output}: another run is writing there. Wait for it, or name another output.")
    except OSError as error:
        raise InputError(f"{config.output}: cannot be written ({error.strerror}). Name another output.") from error
    return lock


class TrainingRun:
    """A run's networks, data and optimiser, and its steps; see `train` for the arguments."""

    def __init__(
        self,
        config: TrainingConfig,
        processes: Processes,
        films: Sequence[TrainingFilm] | None,
        encoders: Encoders | None,
        entries: Sequence[FilmEntry] | None,
    ):
        self.config, self.processes = config, processes
        self.dtype, device = DTYPES[config.precision], processes.device
        self.materials = gather(config, processes, films, encoders, entries)
        self.encoders = self.materials.encoders
        make = Resident if config.data.on_device else Mapped
        held_out = self.materials.held_out
        self.samples: Samples = make(self.materials.entries, device)
        self.held_out: Samples | None = make(held_out, device) if held_out else None
        self.networks, names = build_networks(config, processes, self.materials.start, self.materials.entries[0])
        parameters = {n: p for n, p in self.networks.named_parameters() if n in names}
        self.updater = Updater(parameters, config.updating, config.memory.optimiser, processes.summed)
        self.order = Order(self.samples.count, config.seed, device if config.data.on_device else "cpu")
        self.generator = torch.Generator(device)
        self.losses = Losses(device)
        self.layouts = Layouts()
        self.step, self.saved, self.seconds = 0, 0, 0.0
        self.unusable, self.skipped = 0, 0  # steps without a usable gradient: in a row up to now, and in all

    def to_the_end(self, stop: Callable[[], int], on_step: Callable[[int], None] | None) -> Result:
        config, watch = self.config, self.config.watch
        saving.resume(self)
        if self.processes.is_first:
            write(config, config.output / "resolved.yaml")
        if saving.is_finished(self):
            log.info("%s is finished after %d steps: raise stop.steps to go on", saving.result_path(self), self.step)
            return Result(saving.result_path(self), self.step, None, None)
        report = TrainingLog(config.output, config.stop.steps, self.step, self.processes.is_first)
        begun = time.monotonic() - self.seconds
        saved, values = time.monotonic(), {}
        if not self.step:
            if watch.validate_every and self.held_out:
                report.step(self.validate().values(), self.step, self.processes.device)
            if watch.preview_every:
                self._preview()
        try:
            while self.step < config.stop.steps:
                self.seconds = time.monotonic() - begun
                share = None if config.stop.seconds is None else self.seconds / config.stop.seconds
                if self.processes.agree(share is not None and share >= 1):
                    break
                self.step += 1
                logs = watch.log_every and self.step % watch.log_every == 0
                norms = self._step(config.rates.at(self.step, config.stop.steps, share), logs)
                if logs:
                    values = self.losses.take(self.processes.summed) | {"seconds": round(self.seconds, 3)} | norms
                    report.step(values, self.step, self.processes.device)
                if watch.validate_every and self.held_out and self.step % watch.validate_every == 0:
                    report.step(self.validate().values(), self.step, self.processes.device)
                if watch.preview_every and self.step % watch.preview_every == 0:
                    self._preview()
                if on_step:
                    on_step(self.step)
                ends = self.processes.agree(bool(stop()))
                due = watch.checkpoint_minutes and time.monotonic() - saved >= 60 * watch.checkpoint_minutes
                if ends or self.processes.agree(bool(due)):
                    self._save()
                    saved = time.monotonic()
                if ends:
                    raise Stopped(stop() or SIGTERM)
            self._refuse_to_write()
            if watch.checkpoint_minutes:
                self._save()
            validation = self.validate().loss if self.held_out else None
            return Result(saving.write(self), self.step, values.get("loss"), validation)
        finally:
            report.close()

    def _step(self, rate: float, logs: bool) -> dict[str, float]:
        """Runs one update. With `logs`, returns the learning rate and the gradient norms, in total and by group."""
        config, batch = self.config, self.config.batch
        clips = self.order.of((self.step - 1) * batch, self.step * batch)
        for own in self.processes.pieces(batch, config.memory.micro_batch):
            draws = Keyed(config.seed, self.step, batch, own, generator=self.generator)
            inputs = draw(self.samples.batch(clips[own], draws), self.encoders.vae, draws, config.chances)
            with self._activations():
                loss = step(self.networks, inputs, self.dtype, self.layouts).loss
            (loss.sum() * (self.processes.count / batch)).backward()
            self.updater.collect()
            self.losses.add(loss, inputs.timesteps)
        norms = {}
        if logs:
            for group in GROUPS:
                names = {n for n in self.updater.names if group in n}
                if names:
                    norms[f"gradient_{group}"] = float(self.updater.norm_of(names))
        norm = self.updater.update(rate)
        self._count_unusable(norm)
        return {"rate": rate, "gradient": norm, "skipped_steps": self.skipped, **norms} if logs else {}

    def _count_unusable(self, norm: float) -> None:
        """Counts steps whose gradient was NaN or infinite, which changed nothing.

        Raises:
            InputError: several in a row: the run has diverged.
        """
        self.unusable = 0 if math.isfinite(norm) else self.unusable + 1
        self.skipped += self.unusable > 0
        if self.unusable >= UNUSABLE:
            self._refuse_to_write()

    def _save(self) -> None:
        """Writes a checkpoint of this step, unless there is one or the step changed nothing."""
        if self.step > self.saved and not self.unusable:
            saving.save(self)
            self.saved = self.step

    def _refuse_to_write(self) -> None:
        if self.unusable:
            raise InputError(
                f"step {self.step}: the gradient of the last {self.unusable} steps is NaN or infinite, so the run has "
                "diverged. No result and no checkpoint was written of it; those before are whole. Lower rates.peak."
            )

    def _activations(self):
        """Context that decides where activations are kept for the backward pass."""
        if not self.config.memory.offload_activations:
            return nullcontext()
        return torch.autograd.graph.save_on_cpu(pin_memory=self.processes.device.type == "cuda")

    def validate(self) -> Validation:
        """The loss of the held-out clips with the weights that would be written."""
        settings = dict(generator=self.generator, dtype=self.dtype, layout=self.layouts)
        with self.updater.averaged():
            return validate(self.networks, self.encoders.vae, self.held_out, self.config.seed + 1, **settings)

    def _preview(self) -> None:
        """Writes a preview of the first held-out clip, else of the first clip, with the weights that would be written.
        All processes take part; the first writes."""
        samples, config = self.held_out or self.samples, self.config
        draws = Keyed(config.seed + 1, 0, 1, generator=self.generator)
        batch = samples.batch(torch.zeros(1, dtype=torch.long, device=self.order.device), draws)
        settings = Settings(config.watch.preview_steps)
        with self.updater.averaged():
            frames = preview(
                self.networks, self.encoders.vae, batch, settings, config.seed, dtype=self.dtype, layout=self.layouts
            )
        if self.processes.is_first:
            (entry, *_) = self.materials.held_out or self.materials.entries
            write_preview(config.output / "previews" / f"step-{self.step:08d}.mp4", frames, sound_of(entry, 0))
