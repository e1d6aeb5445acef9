"""The training loop: from initial weights, through steps that can be interrupted, to a transformer file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..errors import InputError
from ..film.locking import try_lock
from ..model.hallo3 import Hallo3
from ..release.layout import Release
from ..runtime.checkpointing import checkpoint_blocks
from ..runtime.compiling import compile_blocks
from . import checkpoints
from .cache import Entry, cache_films
from .config import Config, checked, write
from .draw import draw
from .draws import Keyed, mixed
from .encoders import Encoders, release_encoders
from .films import Film, read_films
from .frozen_fp8 import round_frozen
from .interrupting import asked_to_stop
from .lora import FILE as LORA_FILE
from .lora import add_lora, write_lora
from .networks import hold_rotary, official_names
from .preview import NO_DROPS, preview, write_preview
from .processes import Processes, join, shard
from .report import Losses, Report
from .result import engine_tensors, result_name, write_result
from .samples import Mapped, Order, Resident, Samples
from .start import InputSizes, Maker, Start, networks_of, read_start
from .step import step
from .trainable import RULES
from .updater import Updater

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
GROUPS = ("self_attention", "face", "audio", "mlp", "modulation", "reference_net")
log = logging.getLogger(__name__)


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
    """The objects of a run, built in order of dependency."""

    def __init__(self, config, processes, films, encoders, entries):
        self.config, self.processes = config, processes
        self.dtype = DTYPES[config.precision]
        device = processes.device
        release = Release(config.release) if config.release else None
        if entries is None:
            films = list(films) if films is not None else read_films(_folder(config))
        self.start = _start(config, release)
        self.encoders = encoders or self._encoders(release)
        entries = self._cached(films) if entries is None else entries
        self.consent = list(dict.fromkeys(entry.consent for entry in entries))
        kept = len(entries) - config.data.held_out
        if kept < 1:
            raise InputError(
                f"data.held_out is {config.data.held_out} of {len(entries)} films: none is left to train on."
            )
        make = Resident if config.data.on_device else Mapped
        self.samples: Samples = make(entries[:kept], device)
        self.held_out: Samples | None = make(entries[kept:], device) if config.data.held_out else None
        self.data_identity = str(mixed(*(int(e.identity[:15], 16) for e in entries)))
        self.networks, names = self._networks(entries[0])
        parameters = {n: p for n, p in self.networks.named_parameters() if n in names}
        self.updater = Updater(parameters, config.updating, config.memory.optimiser, processes.summed)
        self.order = Order(self.samples.count, config.seed, device if config.data.on_device else "cpu")
        self.generator = torch.Generator(device)
        self.losses = Losses(device)
        self.step, self.seconds = 0, 0.0

    # Construction

    def _encoders(self, release: Release | None) -> Encoders:
        if release is None:
            raise InputError("release is missing: it names the folder with the VAE, T5, wav2vec2 and face models.")
        tokens = self.config.network.text_tokens
        if self.start.tensors:
            from ..weights import names as weight_names
            from ..weights.parts import sort_official, transformer_config

            tokens = transformer_config(sort_official(dict(self.start.tensors)), weight_names.DENOISER).text_tokens
        return release_encoders(release, device=self.processes.device, dtype=self.dtype, text_tokens=tokens)

    def _cached(self, films: Sequence[Film]) -> list[Entry]:
        config = self.config
        folder = config.data.cache or config.output / "cache"
        reads = dict(
            with_face=config.mode != "base" and config.conditioning.face != "none",
            with_audio=config.mode not in ("base", "identity"),
            motion_frames=config.conditioning.motion_frames,
        )
        return cache_films(films, self.encoders, config.data, folder, **reads)

    def _networks(self, entry: Entry) -> tuple[Hallo3, set[str]]:
        config, processes = self.config, self.processes
        generator = torch.Generator().manual_seed(config.seed)
        maker = Maker(config.network, generator, processes.device, self.dtype)
        networks = networks_of(self.start, config.mode, config.network, config.conditioning, input_sizes(entry), maker)
        if config.mode == "lora":
            names = add_lora(networks, config.lora, config.seed)
            networks.to(processes.device, self.dtype)
        else:
            rule = config.trains or RULES[config.mode]
            names = {name for name, theirs in official_names(networks).items() if rule.trains(theirs)}
        if not names:
            raise InputError(f"mode {config.mode} with these rules trains nothing: look at the section trains.")
        if config.memory.fp8:
            if processes.count > 1:
                raise InputError("memory.fp8 is for one GPU: FSDP shares out the weights of several. Leave it out.")
            round_frozen(networks, names)
        for name, parameter in networks.named_parameters():
            if parameter.is_floating_point() and parameter.dtype.itemsize > 1:
                parameter.requires_grad_(name in names)
        for network in (networks.denoiser, networks.reference_net):
            if network is not None:
                hold_rotary(network)
                if config.memory.checkpoint_layers:
                    checkpoint_blocks(network)
                if config.compile:
                    compile_blocks(network)
        shard(networks, processes)
        return networks, names

    # Training

    def to_the_end(self, stop: Callable[[], bool], on_step: Callable[[int], None] | None) -> Result:
        config, watch = self.config, self.config.watch
        self._resume()
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
                tells = watch.log_every and self.step % watch.log_every == 0
                norms = self._step(config.rates.at(self.step, config.stop.steps, share), tells)
                if tells:
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
                    self._save()
                    saved = time.monotonic()
                if ends:
                    raise Stopped
            validation = self.validation_loss() if self.held_out else None
            return Result(self._write(), self.step, values.get("loss"), validation)
        finally:
            report.close()

    def _step(self, rate: float, tells: bool) -> dict[str, float]:
        """Runs one update. With `tells`, returns the learning rate and the gradient norms, in total and by group."""
        config, batch = self.config, self.config.batch
        part = self.processes.part(batch)
        micro = min(config.memory.micro_batch or batch, part.stop - part.start)
        clips = self.order.of((self.step - 1) * batch, self.step * batch)
        for start in range(part.start, part.stop, micro):
            own = slice(start, start + micro)
            draws = Keyed(config.seed, self.step, batch, own, generator=self.generator)
            inputs = draw(self.samples.batch(clips[own], draws), self.encoders.vae, draws, config.chances)
            with self._activations():
                loss = step(self.networks, inputs, self.dtype).loss
            (loss.sum() * (self.processes.count / batch)).backward()
            self.updater.collect()
            self.losses.add(loss, inputs.timesteps)
        norms = {}
        if tells:
            for group in GROUPS:
                names = {n for n in self.updater.names if group in n}
                if names:
                    norms[f"gradient_{group}"] = float(self.updater.norm_of(names))
        norm = self.updater.update(rate)
        return {"rate": rate, "gradient": float(norm), **norms} if tells else {}

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
            total += step(self.networks, inputs._replace(weight=None), self.dtype).loss.sum()
        return float(total) / count

    def _preview(self) -> None:
        """Writes a preview of the first held-out clip, else of the first clip. All processes take part; the first
        writes."""
        samples, config = self.held_out or self.samples, self.config
        draws = Keyed(config.seed + 1, 0, 1, generator=self.generator)
        batch = samples.batch(torch.zeros(1, dtype=torch.long, device=self.order.device), draws)
        frames = preview(self.networks, self.encoders.vae, batch, config.watch.preview_steps, config.seed, self.dtype)
        if self.processes.is_first:
            write_preview(config.output / "previews" / f"step-{self.step:08d}.mp4", frames)

    def _identity(self) -> dict[str, str]:
        """What a checkpoint depends on: it can only be resumed with the same inputs."""
        config = self.config
        return {
            "start": self.start.identity,
            "data": self.data_identity,
            "mode": config.mode,
            "seed": str(config.seed),
            "batch": str(config.batch),
            "conditioning": str(config.conditioning),
            **({"lora": str(config.lora)} if config.mode == "lora" else {}),
        }

    def _save(self) -> None:
        info = {"seconds": self.seconds, "updates": self.updater.updates, **self._identity()}
        folder = self.config.output / "checkpoints"
        checkpoints.save(folder, self.step, self.updater.state(), info, self.processes, self.config.watch.checkpoints)

    def _resume(self) -> None:
        found = checkpoints.latest(self.config.output / "checkpoints")
        if found is None:
            return
        path, info = found
        for key, now in self._identity().items():
            if info.get(key, now) != now:
                what = {"start": "other weights", "data": "other data"}.get(key, f"{key} {info.get(key)}, now {now}")
                raise InputError(
                    f"{path}: belongs to a run with {what}. Go on with what it began with, or name another output."
                )
        checkpoints.load(path, self.updater.prepare_state(), self.processes)
        self.updater.updates, self.step, self.seconds = info["updates"], info["step"], info["seconds"]
        self.updater.write()
        log.info("going on from %s", path)

    def _write(self) -> Path:
        config = self.config
        is_lora = config.mode == "lora"
        path = config.output / (LORA_FILE if is_lora else result_name(config.mode))
        trained = self.updater.named_values(averaged=bool(config.updating.average))
        if self.processes.is_first:
            card = self._identity() | {
                "steps": self.step,
                "consent": self.consent,
                "films": self.samples.count,
                "trained": len(trained),
                "averaged": bool(config.updating.average),
            }
            if is_lora:
                write_lora(path, trained, config.lora, card, self.dtype)
            else:
                reads = replace(self.networks.denoiser.config.reads, reference=self.networks.reference_net is not None)
                tensors = engine_tensors(self.start, self.networks, trained, self.dtype)
                write_result(path, tensors, card, reads)
        self.processes.wait()
        return path


class Stopped(KeyboardInterrupt):
    """The run was asked to stop and has written a checkpoint; the same command resumes it."""


def input_sizes(entry: Entry) -> InputSizes:
    """Reads the encoders' output sizes off a film's entry."""
    _, channels, frames, h, w = entry.clip.shape
    return InputSizes(
        text=tuple(entry.text.shape),
        audio=0 if entry.audio is None else 5 * entry.audio.shape[1] * entry.audio.shape[2],
        face=0 if entry.face is None else len(entry.face),
        grid=(frames, h // 2, w // 2),
        channels=channels // 2,
    )


def _start(config: Config, release: Release | None) -> Start:
    if config.start is not None:
        return read_start([config.start])
    if config.mode == "base":
        return Start({})
    if release is None:
        raise InputError(f"mode {config.mode} needs a start: name an engine in start, or a release.")
    return read_start(release.engine_files)


def _folder(config: Config) -> Path:
    if config.data.folder is None:
        raise InputError("data.folder is missing: it names the folder of clips to train on.")
    return config.data.folder


def _check(loss: float, at: int) -> None:
    if not loss < float("inf"):
        raise InputError(f"step {at}: the loss is {loss}. Lower rates.peak, or go back to an earlier checkpoint.")
