"""Naming schemes of LoRA files: maps a key to its layer in the model and its role in that layer.

Supported are diffusers and PEFT (`transformer.transformer_blocks.0.attn1.to_q.lora_A.weight`, with or without the
prefix `base_model.model.` and an adapter's name), kohya (`lora_unet_transformer_blocks_0_attn1_to_q.lora_down.weight`,
also with `lora_unet__`, `lora_transformer_` or `lycoris_`) and our own
(`diffusion_model.blocks.0.mlp.up.lora_A.weight`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from ...weights import names

# Prefixes of networks other than the denoiser, in files written by this project's training.
PART_PREFIXES = {f"{part}.": part for part in (names.REFERENCE_NET, names.AUDIO_PROJECTOR, names.FACE_PROJECTOR)}
SHOWN = 3  # keys of a long list
_PREFIXES = (
    *("base_model_model_", "model_diffusion_model_", "diffusion_model_", "transformer_", "module_", "_orig_mod_"),
    *("lora_unet_", "lora_transformer_", "lycoris_", "lora_", "model_", "unet_", "_"),
)
_OLD = re.compile(r"_processor(?=_to_)|_lora$")  # of diffusers before 0.22: attn1.processor.to_q_lora.up.weight
_ADAPTER = r"(?:\.(?P<adapter>.+))?"
_ROLES = {
    "up": re.compile(rf"(?:lora_B|lora_up|lora\.up|lora_linear_layer\.up|up){_ADAPTER}\.weight"),
    "down": re.compile(rf"(?:lora_A|lora_down|lora\.down|lora_linear_layer\.down|down){_ADAPTER}\.weight"),
    "up bias": re.compile(rf"(?:lora_B|lora_up|lora\.up){_ADAPTER}\.bias"),
    "magnitude": re.compile(r"lora_magnitude_vector(?:\.(?P<adapter>(?!weight$).+?))?(?:\.weight)?|dora_scale"),
    "alpha": re.compile(rf"(?:alpha|lora_alpha|network_alpha|lora\.alpha){_ADAPTER}"),
    "bias": re.compile(r"diff_b"),
}
_NEEDED = {"up", "down"}
_REASONS = {
    "LoHa, LoKr, OFT and the like cannot be applied, only LoRA and DoRA.": r"\.(hada|lokr|oft|boft|glora|ia3|a\d|b\d)",
    "Whole biases, norms and weights that were trained beside pairs are not applied.": r"\.(diff|bias|w_norm|b_norm)$",
    "Those of a text encoder are not applied: T5 stays as it is.": r"lora_te|text_encoder|text_model",
}

Pairs = dict[tuple[str, str], dict[str, str]]  # (layer, adapter) -> role -> key


def part_of(key: str) -> str:
    """The network that a key belongs to, as named in `weights/names.py`."""
    return next((part for prefix, part in PART_PREFIXES.items() if key.startswith(prefix)), names.DENOISER)


def sorted_pairs(tensors: Mapping[str, Tensor], layers: Iterable[str]) -> tuple[Pairs, list[str]]:
    """The keys of each layer that has a pair, and the unrecognised keys.

    If a layer has any unrecognised tensor, all its keys count as unrecognised.
    """
    stems = {stem.replace(".", "_"): stem for stem in layers}
    stems |= {flat.removesuffix("_0"): stem for flat, stem in stems.items() if flat.endswith("attn1_to_out_0")}
    pairs: Pairs = {}
    shared: Pairs = {}  # keys of a layer without an adapter's name
    unknown, spoilt = [], set()
    for key in tensors:
        stem, role, adapter = _understood(key, stems)
        if stem is None:
            unknown.append(key)
        elif role is None:
            unknown.append(key)
            spoilt.add(stem)
        elif role in _NEEDED or adapter:
            pairs.setdefault((stem, adapter), {})[role] = key
        else:
            shared.setdefault((stem, ""), {})[role] = key
    for place, keys in list(pairs.items()):
        own = shared.get((place[0], ""), {}) | keys
        if _NEEDED <= own.keys() and place[0] not in spoilt:
            pairs[place] = own
        else:
            unknown += pairs.pop(place).values()
    with_pair = {stem for stem, _ in pairs}
    unknown += [key for (stem, _), keys in shared.items() if stem not in with_pair for key in keys.values()]
    return pairs, unknown


def shortened(keys: Sequence[str]) -> str:
    """A one-line list of the first keys, and the number of the others."""
    rest = len(keys) - SHOWN
    return ", ".join(key[:120] for key in keys[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def reason(keys: Sequence[str]) -> str:
    """Why these keys cannot be used; empty if unknown."""
    if not any(re.search(r"lora|dora|lycoris|hada|lokr|\.diff", key) for key in keys):
        return ""  # not a LoRA file at all
    return " ".join(text for text, form in _REASONS.items() if any(re.search(form, key) for key in keys))


def _understood(key: str, stems: Mapping[str, str]) -> tuple[str | None, str | None, str]:
    """The layer of a key, its role there and its adapter; an unrecognised layer or role is None."""
    parts = key.split(".")
    for length in range(len(parts) - 1, 0, -1):
        stem = _stem("_".join(parts[:length]), stems)
        if stem is not None:
            rest = ".".join(parts[length:])
            for role, form in _ROLES.items():
                if found := form.fullmatch(rest):
                    return stem, role, found.groupdict().get("adapter") or ""
            return stem, None, ""
    return None, None, ""


def _stem(name: str, stems: Mapping[str, str]) -> str | None:
    """The layer of a name that has underscores for dots, with any known prefixes removed."""
    seen = {name, _OLD.sub("", name)}
    waiting = list(seen)
    for candidate in waiting:
        if candidate in stems:
            return stems[candidate]
        shorter = {candidate.removeprefix(prefix) for prefix in _PREFIXES} - seen
        seen |= shorter
        waiting += shorter
    return None
