"""Changes that other nodes make to a MODEL or a CONDITIONING: applied, or rejected with the name of the node."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...hallo3_core.errors import InputError
from ...hallo3_core.sampling.guidance import Guidance
from .messages import speaking

# The host patcher's keys for other nodes' functions.
CALCULATE, BEFORE = "sampler_calc_cond_batch_function", "sampler_pre_cfg_function"
INSTEAD, AFTER = "sampler_cfg_function", "sampler_post_cfg_function"
# in transformer_options: functions, keyed by where the host's blocks call them
IN_BLOCKS = ("patches", "patches_replace")
ROPE = "rope_options"
OVERRIDE = "optimized_attention_override"  # a node's own attention function
UNDERSTOOD = {"wrappers", "callbacks", "easycache", OVERRIDE, *IN_BLOCKS, ROPE}
REPLACEABLE = ("diffusion_model", "manual_cast_dtype")  # parts of the model that compile and dtype nodes replace

# Entries of a CONDITIONING besides its text: the value that has no effect, and the node that sets it.
NEUTRAL = {
    "start_percent": (0.0, "ConditioningSetTimestepRange"),
    "end_percent": (1.0, "ConditioningSetTimestepRange"),
    "strength": (1.0, "ConditioningSetAreaStrength"),
    "area": (None, "ConditioningSetArea"),
    "mask": (None, "ConditioningSetMask"),
    "mask_strength": (1.0, "ConditioningSetMask"),
    "set_area_to_bounds": (False, "ConditioningSetMask"),
    "control": (None, "ControlNetApply"),
    "gligen": (None, "GLIGENTextBoxApply"),
    "hooks": (None, "a node that sets hooks"),
    "default": (False, "ConditioningSetDefaultCombine"),
    "guidance": (None, "FluxGuidance"),
    "reference_latents": (None, "ReferenceLatent"),
    "concat_latent_image": (None, "a node that adds an image to the conditioning"),
    "unclip_conditioning": (None, "unCLIPConditioning"),
    "attention_mask": (None, "a text encoder that masks its padding (choose CLIPLoader's type cogvideox)"),
}
TOO_MANY = "with these scales a step takes more than two model calls, and it expects two"
MEANINGLESS = {"pooled_output", "control_apply_to_uncond", "noise_augmentation"}

log = logging.getLogger(__name__)


class PatchGuard:
    """Methods of a MODEL's patcher through which other nodes change weights, where they would fail without a word."""

    def add_patches(self, patches: Mapping, *args, **kwargs) -> list:
        """Raises InputError for no patches: what core's LoRA loaders give where no name of the LoRA is the model's."""
        if not patches:
            self._refuse_patches(
                "the LoRA changes nothing here: ComfyUI's LoRA loaders do not know CogVideoX's names. Use the node "
                "Hallo3 LoRA Loader, which reads them."
            )
        return super().add_patches(patches, *args, **kwargs)

    def get_key_patches(self, *args, **kwargs) -> dict:
        """Raises InputError for fp8 and int8 weights with scales, which the host cannot take apart."""
        if getattr(self.model.model_config, "quant_config", None):
            self._refuse_patches(
                "this node reads the weights of its second model, and those of an fp8 or int8 file are in two parts. "
                "Load that model with weight_dtype bf16, or swap model1 and model2 and use 1 minus the ratio."
            )
        return super().get_key_patches(*args, **kwargs)

    @staticmethod
    def _refuse_patches(words: str) -> None:
        with speaking():
            raise InputError(words)


def check_model(patcher: Any, guidance: Guidance, steps: int) -> None:
    """Rejects changes that would be ignored or would spoil the result.

    Raises:
        InputError: such a change; the message names the node.
    """
    for name, value in getattr(patcher, "object_patches", {}).items():
        if not name.startswith(REPLACEABLE):
            check_sampling(value) if name == "model_sampling" else _refuse(owner(value), f"it replaces {name}")
    options = patcher.model_options
    if "context_handler" in options:
        raise InputError("context windows do not work with Hallo3: remove the node, long videos go clip by clip")
    inner = options.get("transformer_options", {})
    if getattr(inner.get("easycache"), "name", "") == "LazyCache":
        raise InputError("LazyCache does not work with Hallo3's noise range: use EasyCache instead")
    check_blocks(inner)
    if getattr(inner.get(OVERRIDE), "__module__", "").endswith("nodes_sparse_attention"):
        _refuse(
            "Model Sparse Attention (Block Sparse Attention)",
            "it takes heads of 128 values and as many keys as queries, and Hallo3 has heads of 64 and the portrait's "
            "keys besides, so that all would be computed as without it",
        )
    for key in inner.keys() - UNDERSTOOD:
        log.warning("a node before this one sets the model's option %r, which Hallo3 does not use", key)
    for function in (*_pairwise(options), *options.get(AFTER, ())):
        words = _words(function)
        if "calc_cond_batch" in words and words & {"set_model_options_patch_replace", "transformer_options"}:
            _refuse(owner(function), "it runs the model with other blocks, and Hallo3's cannot be replaced")
    counts = {len(guidance.weights(step, steps)) for step in range(steps)}
    for function in _pairwise(options):
        if counts - {1, 2}:
            _refuse(owner(function), TOO_MANY, True)
        if counts == {1}:
            _refuse(owner(function), "without guidance (all scales 1) it has nothing to work on", True)


def check_sampling(sampling: Any) -> None:
    """Raises InputError unless the noise levels are those of the model."""
    if not hasattr(sampling, "hallo3_alphas"):
        _refuse(owner(sampling), "it changes the noise levels, and Hallo3 works with its own only")


def check_blocks(transformer_options: Mapping[str, Any]) -> None:
    """Raises InputError if a node changes the inside of the blocks, where this model has no hooks."""
    for group in IN_BLOCKS:
        for function in _functions(transformer_options.get(group)):
            _refuse(owner(function), "it changes the blocks of the host's own models, which Hallo3 does not have")
    if transformer_options.get(ROPE):
        _refuse("ScaleROPE", "Hallo3's positions are of the size that it was trained on")


def check_conditioning(extra: Mapping[str, Any]) -> None:
    """Rejects entries besides the text that would be ignored: times, areas, masks, control networks.

    Raises:
        InputError: such an entry; the message names the node.
    """
    for key, value in extra.items():
        if key in NEUTRAL:
            neutral, node = NEUTRAL[key]
            if value is not neutral and (isinstance(value, (Tensor, list, dict)) or value != neutral):
                _refuse(node, f"its {key.replace('_', ' ')} means nothing to Hallo3's text")
        elif key not in MEANINGLESS:
            log.warning("the conditioning holds %r, which Hallo3 does not use", key)


def replaces_guidance(options: Mapping[str, Any]) -> bool:
    """Whether a node replaces guidance with a function of two branches."""
    return any(True for _ in _pairwise(options))


def skipped_steps(options: Mapping[str, Any]) -> int:
    """How many steps core's EasyCache has left out so far in this run; 0 without it."""
    cache = options["transformer_options"].get("easycache")
    return getattr(cache, "total_steps_skipped", 0)


def guide_pair(
    evaluate: Callable[[Sequence], Sequence[Tensor]],
    model: Any,
    cond: Any,
    uncond: Any,
    scale: float,
    x: Tensor,
    timestep: Tensor,
    options: Mapping[str, Any],
) -> tuple[Tensor, Tensor, Tensor]:
    """Applies other nodes' guidance functions, in the host's order, to a step with two branches.

    Returns x0 of the step and of both branches (cond, uncond).

    The host's noise levels reach 1e5, so differences to `x` are computed in float64 if the device supports it.
    """
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    shared = {"conds": [cond, uncond], "input": x, "sigma": timestep, "model": model, "model_options": options}
    calculate = options.get(CALCULATE)
    found = [out.to(wide) for out in (calculate(shared) if calculate else evaluate([cond, uncond]))]
    shared |= {"input": x.to(wide), "timestep": timestep, "cond_scale": scale}
    for function in options.get(BEFORE, ()):
        found = function({**shared, "conds_out": found})
    plus, minus = found[:2]
    if INSTEAD not in options:
        return minus + (plus - minus) * scale, plus, minus
    x = shared["input"]
    values = {"cond": x - plus, "uncond": x - minus, "cond_denoised": plus, "uncond_denoised": minus}
    values |= {"input_cond": cond, "input_uncond": uncond}
    return x - options[INSTEAD]({**shared, **values}), plus, minus


class AfterGuidance(dict):
    """Arguments of a post-guidance function. With more than two branches there is no single scale, so a function that
    reads `cond_scale` is rejected."""

    def __init__(self, values: Mapping[str, Any], function: Callable):
        super().__init__(values)
        self._function = function

    def __missing__(self, key: str) -> Any:
        if key == "cond_scale":
            _refuse(owner(self._function), TOO_MANY, True)
        raise KeyError(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self or key == "cond_scale" else default


def owner(thing: Any) -> str:
    """The node that defined a function or class: the first part of its qualified name."""
    inner = [cell.cell_contents for cell in getattr(thing, "__closure__", None) or () if callable(cell.cell_contents)]
    name = getattr(thing, "__qualname__", None) or type(thing).__qualname__
    if name.startswith("ModelPatcher.") and inner:  # the host's wrapper of functions with an older signature
        return owner(inner[0])
    return name.partition(".")[0]


def _refuse(node: str, why: str, can_be_chosen: bool = False) -> None:
    instead = ", or set text_cfg to audio_cfg and reference_cfg to 1" if can_be_chosen else ""
    raise InputError(f"{node} does not work with Hallo3: {why}. Remove the node{instead}.")


def _pairwise(options: Mapping[str, Any]) -> Iterator[Callable]:
    """Functions that take exactly two branches."""
    for key in (CALCULATE, INSTEAD):
        if key in options:
            yield options[key]
    yield from options.get(BEFORE, ())


def _functions(value: Any) -> Iterator[Any]:
    """The functions in nested dictionaries and lists."""
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        if value is not None:
            yield value
        return
    for each in value:
        yield from _functions(each)


def _words(function: Any) -> set[str]:
    """Names and string constants in a function's code."""
    code = getattr(function, "__code__", None)
    return set() if code is None else {*code.co_names, *(c for c in code.co_consts if isinstance(c, str))}
