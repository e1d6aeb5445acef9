"""The scale of a LoRA's pairs: alpha over rank, with alpha from wherever the training program stored it.

Alpha is stored with each pair (kohya's `.alpha`), in PEFT's settings (in the file's metadata, as diffusers saves them,
or in an `adapter_config.json` beside the file), or as a separate number in the metadata.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import InputError

ADAPTER = "lora_adapter_metadata"  # diffusers' key in a file's metadata: PEFT's settings as JSON
BESIDE = "adapter_config.json"  # PEFT's settings beside the file; also the key that passes them to `read_alphas`
_NUMBERS = ("lora_alpha", "network_alpha", "ss_network_alpha", "alpha")  # separate numbers in the metadata
_LARGEST = 1 << 20  # bytes of a settings file


@dataclass(frozen=True)
class Alphas:
    """The alphas that a file states."""

    label: str
    alpha: float | None = None
    by_layer: Mapping[str, float] = field(default_factory=dict)  # the end of a layer's name -> its alpha
    by_root: bool = False  # alpha over the square root of the rank

    def scale(self, stem: str, rank: int, alpha: float | None) -> float:
        """The factor of a layer's pair; `alpha` is the one stored with the pair, if any.

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
    """The settings that PEFT saved beside a file, if any, under the key `BESIDE`.

    Raises:
        InputError: the settings file cannot be read.
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


def read_alphas(metadata: Mapping[str, str], ranks: set[int], label: str) -> Alphas:
    """Reads the alphas from the metadata of a LoRA whose pairs have these ranks.

    Settings beside the file that state a different rank belong to another LoRA and are ignored.

    Raises:
        InputError: settings that are damaged or not supported.
    """
    for name in (ADAPTER, BESIDE, *(key for key in metadata if key not in (ADAPTER, BESIDE))):
        settings = _settings(metadata.get(name, ""), label, strict=name in (ADAPTER, BESIDE))
        if "lora_alpha" not in settings or (name == BESIDE and not _is_of(settings, ranks)):
            continue
        try:
            patterns = {
                key.removeprefix("^"): float(value) for key, value in (settings.get("alpha_pattern") or {}).items()
            }
            alphas = Alphas(label, float(settings["lora_alpha"]), patterns, bool(settings.get("use_rslora")))
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"{label}: damaged settings in its metadata ({error})") from error
        if odd := [key for key in patterns if not key.replace("_", "").replace(".", "").isalnum()]:
            raise InputError(
                f"{label}: its alpha_pattern has a regular expression ({odd[0][:80]}), which is not supported"
            )
        return alphas
    for name in _NUMBERS:
        try:
            return Alphas(label, float(metadata[name]))
        except (KeyError, ValueError):  # missing, or "None"
            continue
    return Alphas(label)


def _settings(text: str, label: str, strict: bool) -> dict:
    """Parses an adapter's settings from JSON. Other text gives no settings or, if `strict`, an InputError."""
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
