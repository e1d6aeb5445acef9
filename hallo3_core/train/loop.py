"""The training loop: steps that can be interrupted, from initial weights to a transformer file or a LoRA.

What a run is built from is in `materials.py`, what it writes in `saving.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..errors import InputError
from ..film.locking import try_lock
from ..pipeline.options import Settings
from . import saving
from .cache import Entry
from .config import Config, checked, write
from .draw import draw
from .draws import Keyed
from .encoders import Encoders
from .film import Film
from .interrupting import asked_to_stop
from .materials import DTYPES, build_networks, gather
from .networks import Layouts
from .preview import NO_DROPS, preview, sound_of, write_preview
from .processes import Processes, join
from .report import Losses, Report
from .samples import Mapped, Order, Resident, Samples
from .step import step
from .updater import Updater

GROUPS = ("self_attention", "face", "audio", "mlp", "modulation", "reference_net")


@dataclass(frozen=True)
class Result:
    """The result of a run: the transformer file, the number of steps, and the final losses."""

    path: Path
    steps: int
    loss: float | None
    validation_loss: float | None


def train(
    config: Config,
    films: Sequence[Film] | None = None,
    encoders: Encoders | None = None,
    entries: Sequence[Entry] | None = None,
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
    config: Config,
    processes: Processes,
    films: Sequence[Film] | None,
    encoders: Encoders | None,
    entries: Sequence[Entry] | None,
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


def _prepared(config: Config, processes: Processes):
    """Locks the output folder against a second run and writes the full configuration to it."""
    if not processes.is_first:
        return None
    try:
        config.output.mkdir(parents=True, exist_ok=True)
        lock = try_lock(config.output / "lock")
        if lock is None:
            raise InputError(f"{config.output}: another run is writing there. Wait for it, or name another output.")
        write(config, config.output / "resolved.yaml")
    except OSError as error:
        raise InputError(f"{config.output}: cannot be written ({error.strerror}). Name another output.") from error
    return lock


class TrainingRun:
    """A run's networks, data and optimiser, and its steps; see `train` for the arguments."""

    def __init__(
        self,
        config: Config,
        processes: Processes,
        films: Sequence[Film] | None,
        encoders: Encoders | None,
        entries: Sequence[Entry] | None,
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
        self.step, self.seconds = 0, 0.0

    def to_the_end(self, stop: Callable[[], bool], on_step: Callable[[int], None] | None) -> Result:
        config, watch = self.config, self.config.watch
        saving.resume(self)
        report = Report(config.output, config.stop.steps, self.step, self.processes.is_first)
        begun = time.monotonic() - self.seconds
        saved, values = time.monotonic(), {}
        if watch.preview_every and not self.step:
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
                    _check(values["loss"], self.step)
                    report.step(values, self.step, self.processes.device)
                if watch.validate_every and self.held_out and self.step % watch.validate_every == 0:
                    report.step({"validation_loss": self.validation_loss()}, self.step, self.processes.device)
                if watch.preview_every and self.step % watch.preview_every == 0:
                    self._preview()
                if on_step:
                    on_step(self.step)
                ends = self.processes.agree(stop())
                due = watch.checkpoint_minutes and time.monotonic() - saved >= 60 * watch.checkpoint_minutes
                if ends or self.processes.agree(bool(due)):
                    saving.save(self)
                    saved = time.monotonic()
                if ends:
                    raise Stopped
            validation = self.validation_loss() if self.held_out else None
            return Result(saving.write(self), self.step, values.get("loss"), validation)
        finally:
            report.close()

    def _step(self, rate: float, logs: bool) -> dict[str, float]:
        """Runs one update. With `logs`, returns the learning rate and the gradient norms, in total and by group."""
        config, batch = self.config, self.config.batch
        part = self.processes.part(batch)
        micro = min(config.memory.micro_batch or batch, part.stop - part.start)
        clips = self.order.of((self.step - 1) * batch, self.step * batch)
        for start in range(part.start, part.stop, micro):
            own = slice(start, start + micro)
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
        return {"rate": rate, "gradient": float(norm), **norms} if logs else {}

    def _activations(self):
        """Context that decides where activations are kept for the backward pass."""
        if not self.config.memory.offload_activations:
            return nullcontext()
        return torch.autograd.graph.save_on_cpu(pin_memory=self.processes.device.type == "cuda")

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean loss of the held-out clips, with fixed noise and timesteps, no dropped conditions and no weights."""
        batch = min(self.config.batch, self.held_out.count)
        total = torch.zeros((), device=self.processes.device)
        count = self.held_out.count // batch * batch
        for start in range(0, count, batch):
            draws = Keyed(self.config.seed + 1, start, batch, generator=self.generator)
            clips = torch.arange(start, start + batch, device=self.order.device)
            inputs = draw(self.held_out.batch(clips, draws), self.encoders.vae, draws, NO_DROPS)
            total += step(self.networks, inputs._replace(weight=None), self.dtype, self.layouts).loss.sum()
        return float(total) / count

    def _preview(self) -> None:
        """Writes a preview of the first held-out clip, else of the first clip. All processes take part; the first
        writes."""
        samples, config = self.held_out or self.samples, self.config
        draws = Keyed(config.seed + 1, 0, 1, generator=self.generator)
        batch = samples.batch(torch.zeros(1, dtype=torch.long, device=self.order.device), draws)
        settings = Settings(config.watch.preview_steps)
        frames = preview(
            self.networks, self.encoders.vae, batch, settings, config.seed, dtype=self.dtype, layout=self.layouts
        )
        if self.processes.is_first:
            (entry, *_) = self.materials.held_out or self.materials.entries
            write_preview(config.output / "previews" / f"step-{self.step:08d}.mp4", frames, sound_of(entry, 0))


class Stopped(KeyboardInterrupt):
    """The run was asked to stop and has written a checkpoint; the same command resumes it."""


def _check(loss: float, at: int) -> None:
    if not loss < float("inf"):
        raise InputError(f"step {at}: the loss is {loss}. Lower rates.peak, or go back to an earlier checkpoint.")
