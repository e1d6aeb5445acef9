"""By how much a LoRA's pairs count: alpha over rank, from wherever the program that trained it left alpha.

Beside each pair (kohya's `.alpha`), in PEFT's settings (in a file's metadata, as diffusers saves them, or in an
`adapter_config.json` beside the file), or as a number of its own in the metadata.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError

ADAPTER = "lora_adapter_metadata"  # diffusers' key in a file's metadata: PEFT's settings as JSON
BESIDE = "adapter_config.json"  # PEFT's settings beside the file; under this name they are handed to `read_scales` too
_NUMBERS = ("lora_alpha", "network_alpha", "ss_network_alpha", "alpha")  # in the metadata by themselves
_LARGEST = 1 << 20  # bytes of settings


@dataclass(frozen=True)
class Scales:
    """What a file says of its alphas."""

    label: str
    alpha: float | None = None
    by_layer: Mapping[str, float] = field(default_factory=dict)  # the end of a layer's name -> its alpha
    by_root: bool = False  # alpha over the root of the rank

    def scale(self, stem: str, rank: int, alpha: float | None) -> float:
        """The factor of a layer's pair; `alpha` is what stands beside the pair.

        Raises:
            InputError: an alpha that is NaN or infinite.
        """
        if alpha is None:
            found = [value for end, value in self.by_layer.items() if f".{stem}".endswith(f".{end}")]
            alpha = found[0] if found else rank if self.alpha is None else self.alpha
        scale = alpha / (rank**0.5 if self.by_root else rank)
        if not math.isfinite(scale):
            raise InputError(f"{self.label}: alpha is {alpha} for {stem}, expected a number. Get the file again.")
        return scale


def settings_beside(path: Path) -> dict[str, str]:
    """The settings that PEFT left beside a file, if any, under the name `BESIDE`.

    Raises:
        InputError: they cannot be read.
    """
    beside = path.parent / BESIDE
    try:
        if not beside.is_file():
            return {}
        if beside.stat().st_size > _LARGEST:
            raise InputError(f"{beside}: larger than any adapter's settings. Remove it, or get it again.")
        return {BESIDE: beside.read_text(encoding="utf-8-sig")}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{beside}: not readable as an adapter's settings. Remove it, or get it again.") from error


def read_scales(metadata: Mapping[str, str], ranks: set[int], label: str) -> Scales:
    """What the metadata says of a LoRA with pairs of these ranks.

    Settings beside the file are another LoRA's if they name another rank.

    Raises:
        InputError: settings that are damaged, or that this does not follow.
    """
    for name in (ADAPTER, BESIDE, *(key for key in metadata if key not in (ADAPTER, BESIDE))):
        settings = _settings(metadata.get(name, ""), label, strict=name in (ADAPTER, BESIDE))
        if "lora_alpha" not in settings or (name == BESIDE and not _is_of(settings, ranks)):
            continue
        try:
            patterns = {
                key.removeprefix("^"): float(value) for key, value in (settings.get("alpha_pattern") or {}).items()
            }
            scales = Scales(label, float(settings["lora_alpha"]), patterns, bool(settings.get("use_rslora")))
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"{label}: damaged settings in its metadata ({error})") from error
        if odd := [key for key in patterns if not key.replace("_", "").replace(".", "").isalnum()]:
            raise InputError(f"{label}: an alpha for each layer by a pattern ({odd[0][:80]}) cannot be followed")
        return scales
    for name in _NUMBERS:
        try:
            return Scales(label, float(metadata[name]))
        except (KeyError, ValueError):  # missing, or "None"
            continue
    return Scales(label)


def _settings(text: str, label: str, strict: bool) -> dict:
    """An adapter's settings as JSON; empty for a text that is something else, unless it must be settings."""
    if not text or not (strict or text.lstrip().startswith("{")) or len(text) > _LARGEST:
        return {}
    try:
        content = json.loads(text)
        return {name.removeprefix("transformer."): value for name, value in content.items()}
    except (AttributeError, ValueError, RecursionError) as error:
        if strict:
            raise InputError(f"{label}: damaged settings in its metadata ({error})") from error
        return {}


def _is_of(settings: Mapping, ranks: set[int]) -> bool:
    named = {settings.get("r"), *(settings.get("rank_pattern") or {}).values()} - {None}
    return not named or bool(named & ranks)
