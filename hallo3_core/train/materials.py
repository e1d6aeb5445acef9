"""What a run is built from, in order of dependency: initial weights, encoders, cached films, networks that train."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import InputError
from ..model.hallo3 import Hallo3
from ..release.layout import Release
from ..runtime.checkpointing import checkpoint_blocks
from ..runtime.compiling import compile_blocks
from ..weights import names
from ..weights.parts import sort_official, transformer_config
from .cache import FilmEntry, cache_films
from .checking import check_held_out, planned_usage, problems, usage
from .config import TrainingConfig
from .draws import mixed
from .encoders import Encoders, release_encoders
from .film import TrainingFilm
from .films import read_films, refusal
from .frozen_fp8 import round_frozen
from .lora import add_lora
from .networks import official_names
from .processes import Processes, shard
from .start import InputSizes, Maker, Start, networks_of, read_start
from .stored import Digests
from .trainable import RULES

log = logging.getLogger(__name__)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Materials:
    """The initial weights, the frozen encoders, and the films: those to train on, and those held out."""

    start: Start
    encoders: Encoders
    entries: tuple[FilmEntry, ...]
    held_out: tuple[FilmEntry, ...]

    @property
    def data_identity(self) -> str:
        """Equal for the same films in the same order."""
        films = dict.fromkeys(entry.identity for entry in (*self.entries, *self.held_out))
        return str(mixed(*(int(identity[:15], 16) for identity in films)))

    @property
    def consent(self) -> list[str]:
        """Who was asked for permission, each once."""
        return list(dict.fromkeys(entry.consent for entry in (*self.entries, *self.held_out)))


def gather(
    config: TrainingConfig,
    processes: Processes,
    films: Sequence[TrainingFilm] | None,
    encoders: Encoders | None,
    entries: Sequence[FilmEntry] | None,
) -> Materials:
    """Reads the initial weights, and reads or computes the films' entries; arguments that are not None replace what the
    configuration names.

    Raises:
        InputError: the data or the initial weights cannot be used; the message says why.
    """
    release = Release(config.release) if config.release else None
    digests = Digests(_cache(config) if processes.is_first else None)
    if entries is None:
        films = usable_films(config, digests, films)
    start = _start(config, release)
    encoders = encoders or _encoders(config, release, start, processes.device, digests)
    entries = list(entries) if entries is not None else _cached(config, films, encoders, processes)
    numbers = list(dict.fromkeys(entry.film for entry in entries))
    kept = set(numbers[: len(numbers) - config.data.held_out])
    if not kept:
        raise InputError(f"data.held_out is {config.data.held_out} of {len(numbers)} videos: none is left to train on.")
    own, held_out = ([e for e in entries if (e.film in kept) is side] for side in (True, False))
    log.info("%s", usage(own, held_out).line(config))
    return Materials(start, encoders, tuple(own), tuple(held_out))


def usable_films(
    config: TrainingConfig, digests: Digests | None = None, films: Sequence[TrainingFilm] | None = None
) -> list[TrainingFilm]:
    """The run's films, all looked at. With `data.skip_bad` those that cannot be used are left out.

    Raises:
        InputError: films cannot be used; the message names each and says why.
    """
    data = config.data
    found = list(films) if films is not None else read_films(_folder(config), digests, data.skip_bad)
    wrong = problems(found, data, config.mode not in ("base", "identity"))
    if wrong and (not data.skip_bad or len(wrong) == len(found)):
        raise InputError(refusal(list(wrong.values())))
    for problem in wrong.values():
        log.warning("left out: %s", problem)
    found = [film for number, film in enumerate(found) if number not in wrong]
    check_held_out(found, data.held_out)
    return found


def check(config: TrainingConfig) -> str:
    """Looks at all films of a run and says what of them it would use.

    Raises:
        InputError: as `usable_films`.
    """
    return planned_usage(usable_films(config, Digests(_cache(config))), config.data).line(config)


def build_networks(
    config: TrainingConfig, processes: Processes, start: Start, entry: FilmEntry
) -> tuple[Hallo3, set[str]]:
    """Builds the networks on this process's device, as sharded, rounded and checkpointed as configured, and returns
    them with the names of the parameters that train. `entry` is any of the films; its sizes are the encoders'.

    Raises:
        InputError: the mode cannot start from these weights, or nothing would train.
    """
    generator = torch.Generator().manual_seed(config.seed)
    maker = Maker(config.network, generator, processes.device, DTYPES[config.precision])
    networks = networks_of(start, config.mode, config.network, config.conditioning, input_sizes(entry), maker)
    if config.mode == "lora":
        trained = add_lora(networks, config.lora, config.seed)
        networks.to(processes.device, maker.dtype)
    else:
        rule = config.trains or RULES[config.mode]
        trained = {name for name, theirs in official_names(networks).items() if rule.trains(theirs)}
    if not trained:
        raise InputError(f"mode {config.mode} with these rules trains nothing: look at the section trains.")
    for switch, is_on in (("fp8", config.memory.fp8), ("optimiser", config.memory.optimiser == "adamw8bit")):
        if is_on and processes.count > 1:
            raise InputError(f"memory.{switch} is for one GPU: FSDP shares out what it makes smaller. Leave it out.")
    if config.memory.fp8:
        round_frozen(networks, trained)
    for name, parameter in networks.named_parameters():
        if parameter.is_floating_point() and parameter.dtype.itemsize > 1:
            parameter.requires_grad_(name in trained)
    for network in (networks.denoiser, networks.reference_net):
        if network is not None:
            if config.memory.checkpoint_layers:
                checkpoint_blocks(network)
            if config.compile:
                compile_blocks(network)
    shard(networks, processes)
    return networks, trained


def input_sizes(entry: FilmEntry) -> InputSizes:
    """Reads the encoders' output sizes off a film's entry."""
    _, channels, frames, h, w = entry.clip.shape
    return InputSizes(
        text=tuple(entry.text.shape),
        audio=0 if entry.audio is None else 5 * entry.audio.shape[1] * entry.audio.shape[2],
        face=0 if entry.face is None else len(entry.face),
        grid=(frames, h // 2, w // 2),
        channels=channels // 2,
    )


def _folder(config: TrainingConfig) -> Path:
    if config.data.folder is None:
        raise InputError("data.folder is missing: it names the folder of clips to train on.")
    return config.data.folder


def _start(config: TrainingConfig, release: Release | None) -> Start:
    if config.start is not None:
        return read_start([config.start])
    if config.mode == "base":
        return Start({})
    if release is None:
        raise InputError(f"mode {config.mode} needs a start: name a transformer file in start, or a release.")
    return read_start(release.transformer_files)


def _encoders(
    config: TrainingConfig, release: Release | None, start: Start, device: torch.device, digests: Digests
) -> Encoders:
    if release is None:
        raise InputError("release is missing: it names the folder with the VAE, T5, wav2vec2 and face models.")
    tokens = config.network.text_tokens
    if start.tensors:
        tokens = transformer_config(sort_official(dict(start.tensors)), names.DENOISER).text_tokens
    dtype = DTYPES[config.precision]
    return release_encoders(release, device=device, dtype=dtype, text_tokens=tokens, digests=digests)


def _cache(config: TrainingConfig) -> Path:
    return config.data.cache or config.output / "cache"


def _cached(
    config: TrainingConfig, films: Sequence[TrainingFilm], encoders: Encoders, processes: Processes
) -> list[FilmEntry]:
    return cache_films(
        films,
        encoders,
        config.data,
        _cache(config),
        with_face=config.mode != "base" and config.conditioning.face != "none",
        with_audio=config.mode not in ("base", "identity"),
        motion_frames=config.conditioning.motion_frames,
        processes=processes,
    )
