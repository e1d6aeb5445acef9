"""Reads a node's inputs by their declaration before the node runs.

The host checks ranges and choices of widgets only: through a link any value arrives, of any type where the page was
gone round, and nothing at all from a node that failed to give something.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from torch import Tensor, nn

from ..hallo3_core.errors import InputError
from ..hallo3_core.inputs.audio import AudioFeatures
from ..hallo3_core.inputs.face import Face
from ..hallo3_core.inputs.portrait import Portrait
from ..hallo3_core.inputs.sound_values import recording_from
from ..hallo3_core.model.reference_net import ReferenceNet
from . import types
from .images import check_image, check_mask


@dataclass(frozen=True)
class Socket:
    """What a socket's type promises: whether a value is one, and where such values come from."""

    fits: Callable[[Any], bool]
    source: str


def _is_text(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and all(isinstance(part, (list, tuple)) and len(part) == 2 for part in value)
        and all(isinstance(text, Tensor) and isinstance(extra, Mapping) for text, extra in value)
    )


def _is_network(kind: Callable[[nn.Module], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, types.Network) and kind(value.module)


SOCKETS = {
    "IMAGE": Socket(lambda value: isinstance(value, Tensor), "Load Image"),
    "MASK": Socket(lambda value: isinstance(value, Tensor), "Hallo3 Face Embed"),
    "AUDIO": Socket(lambda value: True, "Hallo3 Voice"),  # in any of the forms that `recording_from` knows
    "MODEL": Socket(lambda value: hasattr(value, "model_options"), "Hallo3 Model Loader"),
    "VAE": Socket(lambda value: hasattr(value, "first_stage_model"), "Hallo3 VAE Loader"),
    "CONDITIONING": Socket(_is_text, "CLIPTextEncode"),
    types.AUDIO: Socket(lambda value: isinstance(value, AudioFeatures), "Hallo3 Audio Encode"),
    types.FACE: Socket(lambda value: isinstance(value, Face), "Hallo3 Face Embed"),
    types.REFERENCE: Socket(lambda value: isinstance(value, Portrait), "Hallo3 Reference"),
    types.MOTION: Socket(lambda value: isinstance(value, types.Motion), "Hallo3 Motion Frames"),
    types.FACE_ANALYSIS: Socket(lambda value: hasattr(value, "analyse"), "Hallo3 Face Analysis Loader"),
    types.WAV2VEC: Socket(_is_network(lambda module: hasattr(module, "model")), "Hallo3 Wav2Vec Loader"),
    types.REFERENCE_NET: Socket(
        _is_network(lambda module: isinstance(module, ReferenceNet)), "Hallo3 Reference Net Loader"
    ),
}
IN_DETAIL = {"IMAGE": check_image, "MASK": check_mask, "AUDIO": lambda value, name: recording_from(value, name)}
TEXTS, FLAGS, NUMBERS = "STRING", "BOOLEAN", ("INT", "FLOAT")
OPEN = "VALIDATE_INPUTS"  # a node that has it answers for what its dropdown does not list


def checked(node: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a node's inputs as its declaration promises them, whole numbers as int and numbers as float.

    Raises:
        InputError: a missing or wrong value, in one sentence that names the input.
    """
    inputs, found = node.INPUT_TYPES(), dict(values)
    for group in ("required", "optional"):
        for name, (kind, options) in inputs.get(group, {}).items():
            if name not in values:  # the host refuses a node without a required one
                continue
            shown = options.get("display_name", name)
            if isinstance(kind, list) or kind not in SOCKETS:
                found[name] = _widget(shown, kind, options, values[name], hasattr(node, OPEN))
            elif values[name] is not None or group == "required":
                _check_socket(shown, kind, values[name])
    return found


def _check_socket(name: str, kind: str, value: Any) -> None:
    if not SOCKETS[kind].fits(value):
        raise InputError(f"{name}: found {described(value)}, expected {kind}. Connect {SOCKETS[kind].source}.")
    if kind in IN_DETAIL:
        IN_DETAIL[kind](value, name)


def _widget(name: str, kind: Any, options: Mapping[str, Any], value: Any, is_open: bool) -> Any:
    if isinstance(kind, list):
        if not isinstance(value, str) or not (value in kind or is_open):
            raise InputError(f"{name} is {_short(value)}: choose {_listed(kind)}.")
        return value
    if kind == TEXTS and not isinstance(value, str):
        raise InputError(f"{name}: found {described(value)}, expected text.")
    if kind == FLAGS and not isinstance(value, (bool, int)):
        raise InputError(f"{name}: found {described(value)}, expected true or false.")
    return _number(name, kind, options, value) if kind in NUMBERS else value


def _number(name: str, kind: str, options: Mapping[str, Any], value: Any) -> int | float:
    noun = "a whole number" if kind == "INT" else "a number"
    if not isinstance(value, Real):
        raise InputError(f"{name}: found {described(value)}, expected {noun}.")
    low, high = options.get("min", -math.inf), options.get("max", math.inf)
    is_whole = isinstance(value, Integral) or float(value).is_integer()
    if not low <= value <= high or (kind == "INT" and not is_whole):
        raise InputError(f"{name} is {_short(value)}: choose {noun} from {_short(low)} to {_short(high)}.")
    return int(value) if kind == "INT" else float(value)


def described(value: Any) -> str:
    """Names a value for a user: by its socket's type, a tensor by its shape, anything else by its Python type."""
    if value is None:
        return "nothing (None)"
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, Mapping):
        by_key = {"waveform": "AUDIO", "samples": "a LATENT"}
        return next((noun for key, noun in by_key.items() if key in value), "a dictionary")
    if isinstance(value, (bool, Real, str)):
        return _short(value)
    fitting = (kind for kind, ours in SOCKETS.items() if kind not in ("IMAGE", "MASK", "AUDIO") and ours.fits(value))
    return next(fitting, f"an object of type {type(value).__name__}")


def _short(value: Any) -> str:
    """A value in a sentence: a number in its shortest form, text in quotes, cut off when long."""
    if isinstance(value, Real) and not isinstance(value, (bool, Integral)):
        return f"{float(value):g}"
    if isinstance(value, (Integral, str)):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    return described(value)


def _listed(choices: list) -> str:
    """Choices in a sentence; of many only the first."""
    names = [str(choice) for choice in choices]
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if len(names) < 16 else ", ".join(names[:15])
