"""The host's memory manager: networks under patchers, the layers they are built of, and dtypes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import comfy.model_management as management
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor, nn

from ...hallo3_core.errors import InputError
from ...hallo3_core.weights import fp8
from ...hallo3_core.weights.parts import Parts, build, fill
from ..types import Network
from .attention import host_attention

TINY = 2.0**-20  # the least scale of a row: one of zeros stays zero
EVERYTHING = 1e30  # bytes: how the host itself asks for all there is
WHOLE = 1e32  # bytes: how it says that all of a module is to be loaded
COMPUTE_DTYPES = [torch.bfloat16, torch.float16, torch.float32]
FP8, FP8_MATMUL = "fp8", "fp8 matmul"
DTYPES = {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, FP8: torch.bfloat16, FP8_MATMUL: torch.bfloat16}
QUANTISED = {"mixed_ops": True}  # how the host's models say that their layers bring scales of their own


log = logging.getLogger(__name__)


class WholePatcher(comfy.model_patcher.ModelPatcher):
    """The handle of a module of torch's layers: all of it or nothing, whatever the user's memory setting.

    The host loads what fits of a module and brings the rest as it is used, which only its own layers can do. Where a
    whole module does not fit, the host hears that memory ran out, which it has an answer to.
    """

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
        return super().partially_load(device_to, WHOLE, force_patch_weights)


def patcher_for(module: nn.Module, *, plain: bool = False) -> Any:
    """The host's handle of a module of the host's layers: the streaming kind where the host has it, or the `plain`."""
    base = comfy.model_patcher.ModelPatcher
    kind = base if plain else getattr(comfy.model_patcher, "CoreModelPatcher", base)
    return kind(module, load_device=management.get_torch_device(), offload_device=management.unet_offload_device())


@contextmanager
def on_device(network: Network, memory: float = 0) -> Iterator[nn.Module]:
    """The network's module, loaded for use; `memory` bytes are left free beside it for what it computes."""
    management.load_models_gpu([network.patcher], memory_required=memory)
    yield network.module


def only_on_device(patcher: Any) -> None:
    """All other models leave the patcher's device; the host loads each again when it is used."""
    kept = [loaded for loaded in management.current_loaded_models if loaded.model and patcher.is_clone(loaded.model)]
    management.free_memory(EVERYTHING, patcher.load_device, kept)


def hosted_part(parts: Parts, part: str, choice: str, source: str) -> Network:
    """Build a part of a checkpoint from the host's layers and put it under a patcher.

    choice: a key of `DTYPES`.

    Raises:
        InputError: the checkpoint lacks the part, or its tensors do not fit.
    """
    tensors = checked(parts, part, source)
    tensors, quantised = prepare_weights(tensors, choice)
    dtype, compute = choose_dtypes(tensors, choice, quantised)
    module = build(
        Parts({part: parts.tensors[part]}),
        part,
        attention=host_attention,
        operations=host_layers(dtype, compute, quantised),
        device=storage(quantised),
        dtype=dtype,
    )
    assign(module, tensors, dtype)
    return Network(module, patcher_for(module), compute or dtype, source)


def checked(parts: Parts, part: str, source: str) -> dict[str, Tensor]:
    """The tensors of a part, once names and shapes are known to fit: the host's own loading would only log it.

    Raises:
        InputError: they do not, or the part is missing.
    """
    tensors = dict(parts.tensors.get(part, {}))
    fill(build(parts, part), tensors, device="meta", label=f"{source}, {part.replace('_', ' ')}")
    return tensors


def prepare_weights(tensors: dict[str, Tensor], choice: str) -> tuple[dict[str, Tensor], bool]:
    """The tensors as the choice wants them, and whether some are in fp8 with a scale.

    "fp8" rounds what is not rounded yet; "fp8 matmul" also lets the host multiply in fp8, which rounds what goes in;
    "bf16" and "fp16" multiply out what is rounded.
    """
    if choice not in DTYPES:
        raise InputError(f"weight dtype {choice!r}: choose one of {', '.join(DTYPES)}")
    stored = any(name.endswith("." + fp8.SCALE) for name in tensors)
    if choice in (FP8, FP8_MATMUL):
        tensors = tensors if stored else fp8.rounded(tensors)
        return {n: _mark_of(n, tensor, choice) for n, tensor in tensors.items()}, True
    if choice in ("bf16", "fp16") and stored:
        return _multiplied_out(tensors, DTYPES[choice]), False
    return tensors, stored


def _mark_of(name: str, tensor: Tensor, choice: str) -> Tensor:
    """What tells the host how to multiply; any other tensor as it is."""
    return fp8.mark(matmul=choice == FP8_MATMUL) if name.endswith("." + fp8.MARK) else tensor


def choose_dtypes(
    tensors: Mapping[str, Tensor], choice: str, quantised: bool
) -> tuple[torch.dtype, torch.dtype | None]:
    """What weights are kept in, and what to compute in where that is another (None: the same)."""
    device = management.get_torch_device()
    dtype = DTYPES[choice]
    stored = max((t.dtype for t in tensors.values() if t.dtype in COMPUTE_DTYPES), key=_size, default=None)
    supported = COMPUTE_DTYPES
    if torch.float16 not in (dtype, stored) and management.should_use_bf16(device):
        # A host that prefers fp16 (--fast) would copy all weights, and values beyond 65504 would be lost.
        supported = [each for each in COMPUTE_DTYPES if each != torch.float16]
    if dtype is None:
        parameters = sum(tensor.nelement() for tensor in tensors.values())
        dtype = management.unet_dtype(
            model_params=parameters, supported_dtypes=supported, weight_dtype=None if quantised else stored
        )
    compute = management.unet_manual_cast(None if quantised else dtype, device, supported)
    if quantised:  # 0.8's layers with scales cast weights and not biases, so what has no scale is kept as computed
        dtype = compute = compute or dtype
    return dtype, compute


def host_layers(dtype: torch.dtype, compute: torch.dtype | None, quantised: bool, choice: str = "auto") -> Any:
    """The namespace of the host's layers (`Linear`, `LayerNorm`, ...): streaming, casting, LoRA-aware."""
    config = SimpleNamespace(quant_config=QUANTISED if quantised else None)
    device = management.get_torch_device()
    layers = comfy.ops.pick_operations(dtype, compute, load_device=device, model_config=config)
    if choice != FP8_MATMUL:
        return layers
    if not management.supports_fp8_compute(device):
        log.warning("%s does not multiply in fp8: weights are kept in it, matmuls are exact", device)
        return layers
    return type("Fp8MatmulLayers", (layers,), {"Linear": _with_scaled_rows(layers.Linear)})


def _with_scaled_rows(base: type[nn.Module]) -> type[nn.Module]:
    """The host's linear layer, which rounds its input to fp8 as it is. Here each row comes at fp8's own scale, so that
    large values are not cut off and small ones keep their digits, as on the command line."""

    class Linear(base):
        def forward(self, x: Tensor) -> Tensor:
            is_patched = getattr(self, "weight_function", None) or getattr(self, "bias_function", None)
            if getattr(self, "layout_type", None) is None or is_patched:
                return super().forward(x)  # not rounded; or dequantised for a LoRA, which the host adds on the way
            scale = (x.abs().amax(dim=-1, keepdim=True).float() / fp8.LARGEST).clamp_min(TINY).to(x.dtype)
            out = super().forward(x / scale)
            if self.bias is None:
                return out * scale
            bias = self.bias.to(out.device, out.dtype)
            return (out - bias) * scale + bias

    return Linear


def storage(quantised: bool) -> str:
    """Where a network is made before it gets its tensors: nowhere, but for layers with scales, which load what is not
    rounded to the device that they were made on."""
    return "cpu" if quantised else "meta"


def assign(module: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Give the module its tensors, cast one by one; mapped ones of the right dtype are not copied. Names and shapes
    are expected to be checked already: where the host makes weights late, it would accept any."""
    own = {name: _kept(name, tensor, dtype) for name, tensor in tensors.items()}
    module.load_state_dict(own, strict=False, assign=True)
    module.requires_grad_(False).eval()
    empty = [name for name, parameter in module.named_parameters() if parameter.is_meta]
    if empty:
        raise RuntimeError(f"{len(empty)} weights were not taken, such as {empty[0]}")


def _kept(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    is_fp8 = tensor.dtype == fp8.FLOAT8 or name.endswith(("." + fp8.SCALE, "." + fp8.MARK))
    return tensor if is_fp8 else tensor.to(dtype)


def _multiplied_out(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    result = {}
    for name, tensor in tensors.items():
        scale = tensors.get(name.removesuffix("weight") + fp8.SCALE)
        if name.endswith(("." + fp8.SCALE, "." + fp8.MARK)):
            continue
        result[name] = tensor if scale is None else tensor.to(dtype) * scale.to(dtype)
    return result


def _size(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits
