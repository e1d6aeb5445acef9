"""The training configuration: one YAML file; every value defaults to the original's.

Each section of the file is a class here. For an unknown key, `read` suggests the closest known one.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError, require
from ..model.conditioning import Conditioning
from .draw import Chances
from .lora import Lora
from .optimiser import Rates, Updating
from .trainable import Rule

Mode = Literal["base", "identity", "audio", "full", "speech", "lora"]


@dataclass(frozen=True)
class Data:
    """The training clips and how they are cached. `folder` contains clips.jsonl, or is the original's JSON list."""

    folder: Path | None = None
    cache: Path | None = None  # folder for computed inputs; None: `cache` in the output folder
    size: tuple[int, int] = (480, 720)  # height, width
    windows: int | None = None  # clips of 49 frames, cut evenly from each film; None: as many as use all of it
    references: int = 8  # frames of each film that can serve as its portrait
    held_out: int = 0  # films at the end of the list, never trained on: they give the validation loss
    on_device: bool = False  # keep all data in device memory
    skip_bad: bool = False  # leave out films that cannot be used, instead of refusing the list
    mouth_weight: float = 1.0  # of the latent cells around the mouth in the loss; above 1, clips need a mouth_box


@dataclass(frozen=True)
class Stop:
    """When the run ends: after this many steps or seconds, whichever comes first."""

    steps: int = 30_000
    seconds: float | None = None


@dataclass(frozen=True)
class NetworkSizes:
    """Sizes of modules trained from scratch: the whole network in mode base, the new modules in identity and audio."""

    hidden: int = 3072
    heads: int = 48
    layers: int = 42
    time: int = 512
    text_tokens: int = 226
    face_tokens: int = 4
    face_width: int = 1024
    audio_inner: int = 512
    audio_tokens: int = 32
    audio_width: int = 768
    start: Literal["original", "fan_in"] = "original"  # new matrices: normal 0.02, or 1 / sqrt(inputs)


@dataclass(frozen=True)
class Memory:
    """Options that trade time for memory. Only fp8 and the 8-bit optimiser change the result."""

    checkpoint_layers: bool = False
    fp8: bool = False  # frozen matrices of the blocks
    optimiser: Literal["adamw", "adamw8bit"] = "adamw"
    offload_activations: bool = False
    micro_batch: int | None = None  # samples computed at a time; None: all of the process's


@dataclass(frozen=True)
class Watch:
    """How often to write each output, in steps unless the name says otherwise; 0: never."""

    log_every: int = 20
    validate_every: int = 500
    preview_every: int = 0
    preview_steps: int = 20
    checkpoint_minutes: float = 15
    checkpoints: int = 2  # how many are kept


@dataclass(frozen=True)
class TrainingConfig:
    """A run. `release` is the release's folder; `start` is a transformer file to start from instead of the
    release's."""

    mode: Mode = "speech"
    output: Path = Path("training")
    release: Path | None = None
    start: Path | None = None
    data: Data = field(default_factory=Data)
    seed: int = 0
    batch: int = 1  # samples per step, over all processes
    device: str = "auto"
    precision: Literal["bf16", "fp32"] = "bf16"
    compile: bool = False
    stop: Stop = field(default_factory=Stop)
    rates: Rates = field(default_factory=Rates)
    updating: Updating = field(default_factory=Updating)
    chances: Chances = field(default_factory=Chances)
    trains: Rule | None = None  # None: the mode's default
    network: NetworkSizes = field(default_factory=NetworkSizes)
    conditioning: Conditioning = field(default_factory=Conditioning)  # the paper's ablations; see model/conditioning.py
    lora: Lora = field(default_factory=Lora)  # of mode lora
    memory: Memory = field(default_factory=Memory)
    watch: Watch = field(default_factory=Watch)


_COUNTS = (
    *("data.held_out", "rates.warmup_steps", "rates.slow_steps", "updating.eps", "updating.weight_decay"),
    *("watch.log_every", "watch.validate_every", "watch.preview_every", "watch.checkpoint_minutes"),
)


def read(path: Path | str, changes: Sequence[str] = ()) -> TrainingConfig:
    """Reads a YAML file and applies `changes` such as "stop.steps=100".

    Raises:
        InputError: missing file, invalid YAML, unknown key, value of the wrong type, or PyYAML is not installed.
    """
    yaml = require("yaml", "pyyaml", "reading a training configuration")
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Name a training configuration.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f", line {line + 1}"
        reason = getattr(error, "problem", None) or "not text"
        raise InputError(f"{path}{where}: not valid YAML ({reason}).") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected keys and values, such as mode: speech, found {str(values)[:40]!r}.")
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise InputError(f"--set {change}: expected a key, = and a value, such as stop.steps=100.")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--set {change}: {value!r} is not a YAML value.") from error
        _put(values, key.strip().split("."), parsed, change)
    return checked(from_values(TrainingConfig, values, str(path)), str(path))


def write(config: TrainingConfig, path: Path) -> None:
    """Writes the whole configuration, including defaults, in the format of `read`."""
    yaml = require("yaml", "pyyaml", "writing a training configuration")
    path.write_text(yaml.safe_dump(plain(config), sort_keys=False), encoding="utf-8")


def plain(value: Any) -> Any:
    """Converts dataclasses to dictionaries, paths to strings and tuples to lists."""
    if is_dataclass(value):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def checked(config: TrainingConfig, source: str = "configuration") -> TrainingConfig:
    """Returns the configuration if its values are consistent.

    Raises:
        InputError: they are not; the message names the key.
    """

    def refuse(key: str, found: object, expected: str) -> None:
        raise InputError(f"{source}: {key} is {found}, expected {expected}.")

    for key in ("batch", "stop.steps", "watch.preview_steps", "watch.checkpoints", "memory.micro_batch"):
        value = _at(config, key)
        if value is not None and value < 1:
            refuse(key, value, "1 or more")
    for key in _COUNTS:
        if _at(config, key) < 0:
            refuse(key, _at(config, key), "0 or more")
    for key in ("rates.decay_from", "rates.slow_peak", "rates.last"):
        value = _at(config, key)
        if value is not None and not 0 <= value <= 1:
            refuse(key, value, "a share of 0 to 1")
    for key in ("updating.average", *(f"updating.betas.{n}" for n in range(2))):
        if not 0 <= _at(config, key) < 1:
            refuse(key, _at(config, key), "0 or more and less than 1")
    if config.stop.seconds is not None and not 0 < config.stop.seconds < float("inf"):
        refuse("stop.seconds", config.stop.seconds, "more than 0, or null for no limit")
    for key in ("windows", "references"):
        value = getattr(config.data, key)
        if value is not None and value < 1:
            refuse(f"data.{key}", value, "1 or more")
    for name, chance in vars(config.chances).items():
        if isinstance(chance, float | int) and not 0 <= chance <= 1:
            refuse(f"chances.{name}", chance, "a share of 0 to 1")
    if not 1 <= config.data.mouth_weight < float("inf"):
        refuse("data.mouth_weight", config.data.mouth_weight, "1 (the original's) or more")
    if config.lora.rank < 1:
        refuse("lora.rank", config.lora.rank, "1 or more (32 serves most)")
    if config.mode == "lora" and not config.lora.groups:
        refuse("lora.groups", "empty", "some of look, identity, speech")
    if not 0 < config.lora.alpha < float("inf"):
        refuse("lora.alpha", config.lora.alpha, "a number above 0, such as the rank")
    if not 0 < config.rates.peak < float("inf"):
        refuse("rates.peak", config.rates.peak, "more than 0 (the original has 1e-5)")
    if not config.updating.clip > 0:
        refuse("updating.clip", config.updating.clip, "more than 0 (the original has 0.1)")
    micro = config.memory.micro_batch
    if micro is not None and config.batch % micro:
        refuse("memory.micro_batch", micro, f"a number that divides the batch of {config.batch}")
    if any(side % 16 or side < 16 for side in config.data.size):
        refuse("data.size", list(config.data.size), "height and width in multiples of 16")
    if config.network.hidden % config.network.heads or config.network.hidden // config.network.heads % 8:
        refuse("network.heads", config.network.heads, f"heads of a multiple of 8 out of {config.network.hidden}")
    return config


def _at(config: TrainingConfig, key: str) -> Any:
    """The value of a key such as stop.steps or updating.betas.0."""
    found: Any = config
    for name in key.split("."):
        found = found[int(name)] if name.isdecimal() else getattr(found, name)
    return found


def from_values(kind: type, values: Mapping[str, Any], source: str, path: str = "") -> Any:
    """Builds a dataclass from plain values; see `read`."""
    if not isinstance(values, Mapping):
        raise InputError(f"{source}: {path.rstrip('.')} is {values!r}, expected a section of keys and values.")
    known = {each.name: each for each in fields(kind)}
    hints = typing.get_type_hints(kind)
    found = {}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1, 0.4)
            advice = f"did you mean {path}{near[0]}?" if near else f"known are {', '.join(known)}."
            raise InputError(f"{source}: unknown key {path}{key}: {advice}")
        found[key] = _convert(hints[key], value, source, f"{path}{key}")
    for name, each in known.items():
        if name not in found and each.default is MISSING and each.default_factory is MISSING:
            raise InputError(f"{source}: {path}{name} is missing.")
    return kind(**found)


def _convert(kind: Any, value: Any, source: str, key: str) -> Any:
    def refuse(expected: str):
        return InputError(f"{source}: {key} is {value!r}, expected {expected}.")

    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (kind,) = (each for each in arguments if each is not type(None))
        return _convert(kind, value, source, key)
    if is_dataclass(kind):
        return from_values(kind, value, source, f"{key}.")
    if origin is Literal:
        if value not in arguments:
            near = difflib.get_close_matches(str(value), [str(a) for a in arguments], 1, 0.4)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise refuse(f"one of {', '.join(map(str, arguments))}{hint}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise refuse("a list")
        if arguments[-1] is Ellipsis:
            return tuple(_convert(arguments[0], each, source, key) for each in value)
        if len(value) != len(arguments):
            raise refuse(f"a list of {len(arguments)}")
        return tuple(_convert(k, each, source, key) for k, each in zip(arguments, value, strict=True))
    if kind is float and isinstance(value, str):  # YAML parses 1e-5 as a string
        try:
            return float(value)
        except ValueError:
            raise refuse("a number") from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value).expanduser()
    if kind is Path and isinstance(value, Path):
        return value
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
        raise refuse(words[kind])
    return value


def _put(values: dict, keys: Sequence[str], value: Any, change: str) -> None:
    *outer, last = keys
    for key in outer:
        values = (
            values.setdefault(key, {}) if values.get(key) is not None else values.__setitem__(key, {}) or values[key]
        )
        if not isinstance(values, dict):
            raise InputError(f"--set {change}: {key} is a value, not a section.")
    values[last] = value
