"""Interface to the host's memory manager: patchers of networks, the host's layers, and dtypes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import comfy.model_management as management
import comfy.model_patcher
import comfy.ops
import comfy.quant_ops
import torch
from torch import Tensor, nn

from ...hallo3_core.errors import InputError
from ...hallo3_core.weights import fp8, int8
from ...hallo3_core.weights.parts import Parts, build, fill
from ...hallo3_core.weights.quantised import FLOATS, group_in, layers_of, multiplied_out
from ..types import Network
from .attention import host_attention

TINY = 2.0**-20  # smallest scale of a row, so that an all-zero row stays zero
EVERYTHING = 1e30  # bytes: the host's own value for "free everything"
WHOLE = 1e32  # bytes: the host's own value for "load the whole module"
COMPUTE_DTYPES = [torch.bfloat16, torch.float16, torch.float32]
FP8, FP8_MATMUL, INT8, INT8_MATMUL = "fp8", "fp8 matmul", "int8", "int8 matmul"
EIGHT_BITS = {FP8: fp8.rounded, FP8_MATMUL: fp8.rounded, INT8: int8.rounded, INT8_MATMUL: int8.rounded}
DTYPES = {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, **dict.fromkeys(EIGHT_BITS, torch.bfloat16)}
QUANTISED = {"mixed_ops": True}  # the host's mark of models whose layers have their own scales


log = logging.getLogger(__name__)


class WholePatcher(comfy.model_patcher.ModelPatcher):
    """Patcher for a module of plain torch layers: loads all of it or nothing, whatever the user's memory setting.

    The host loads the part of a module that fits and streams the rest on use, which only its own layers support. If the
    whole module does not fit, loading runs out of memory, and the host handles that.
    """

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
        return super().partially_load(device_to, WHOLE, force_patch_weights)


def patcher_for(module: nn.Module, *, plain: bool = False, guard: type | None = None) -> Any:
    """Makes a patcher for a module of the host's layers: the streaming kind if the host has it, unless `plain`.

    guard: a class whose methods go before the patcher's own, in its clones too.
    """
    base = comfy.model_patcher.ModelPatcher
    kind = base if plain else getattr(comfy.model_patcher, "CoreModelPatcher", base)
    device = management.get_torch_device()
    if device.type == "cpu":  # where the streaming kind turns itself into the plain one
        kind = base
    if guard is not None:
        kind = type(kind.__name__, (guard, kind), {})
    return kind(module, load_device=device, offload_device=management.unet_offload_device())


@contextmanager
def on_device(network: Network, memory: float = 0) -> Iterator[nn.Module]:
    """Loads the network and yields its module. `memory` bytes are left free for its activations."""
    management.load_models_gpu([network.patcher], memory_required=memory)
    yield network.module


def only_on_device(patcher: Any) -> None:
    """Offloads all other models from the patcher's device. The host reloads each when it is used."""
    kept = [loaded for loaded in management.current_loaded_models if loaded.model and patcher.is_clone(loaded.model)]
    management.free_memory(EVERYTHING, patcher.load_device, kept)


def hosted_part(parts: Parts, part: str, choice: str, source: str) -> Network:
    """Builds a part of a checkpoint from the host's layers, with a patcher.

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
    """Returns the tensors of a part after checking names and shapes; the host's own loading would only log mismatches.

    Raises:
        InputError: names or shapes do not fit, or the part is missing.
    """
    tensors = dict(parts.tensors.get(part, {}))
    fill(build(parts, part), tensors, device="meta", label=f"{source}, {part.replace('_', ' ')}")
    return tensors


def prepare_weights(tensors: dict[str, Tensor], choice: str) -> tuple[dict[str, Tensor], bool]:
    """Converts the tensors to the chosen dtype. Also returns whether some are in fp8 or int8 with scales.

    "fp8" and "int8" quantise weights that are not in 8 bits yet. With "matmul" the host also multiplies in 8 bits,
    which rounds the inputs. "bf16" and "fp16" dequantise.

    Raises:
        InputError: an unknown choice, or one that this host has no layers for.
    """
    if choice not in DTYPES:
        raise InputError(f"weight dtype {choice!r}: choose one of {', '.join(DTYPES)}")
    stored = bool(layers_of(tensors))
    if choice in (INT8, INT8_MATMUL) and not stored and int8.FORMAT not in host_formats():
        raise InputError(f"weight dtype {choice}: this ComfyUI has no int8 layers. Update it, or choose fp8.")
    if stored and choice in ("bf16", "fp16"):
        return multiplied_out(tensors, DTYPES[choice]), False
    if stored and not _formats_of(tensors) <= host_formats():
        log.warning(
            "this ComfyUI has no int8 layers: these weights become bf16, which takes twice the memory. Update it to "
            "keep them"
        )
        return multiplied_out(tensors), False
    if not stored and choice in EIGHT_BITS:
        tensors, stored = EIGHT_BITS[choice](tensors), True
    return (with_marks(tensors, matmul=choice in (FP8_MATMUL, INT8_MATMUL)) if stored else tensors), stored


def host_formats() -> set[str]:
    """The formats of quantised layers that this host has, by their names in marks."""
    return set(comfy.quant_ops.QUANT_ALGOS)


def with_marks(tensors: Mapping[str, Tensor], *, matmul: bool = False) -> dict[str, Tensor]:
    """The tensors with a mark for each quantised layer, which tells the host the format and how to multiply."""
    found = dict(tensors)
    for layer in layers_of(tensors):
        name, dtype = f"{layer}.{fp8.MARK}", tensors[f"{layer}.weight"].dtype
        if dtype == torch.int8:
            found[name] = int8.mark(group_in(tensors.get(name)), matmul=matmul)
        else:
            found[name] = fp8.mark(FLOATS[dtype], matmul=matmul)
    return found


def _formats_of(tensors: Mapping[str, Tensor]) -> set[str]:
    dtypes = {tensors[f"{layer}.weight"].dtype for layer in layers_of(tensors)}
    return {FLOATS.get(dtype, int8.FORMAT) for dtype in dtypes}


def choose_dtypes(
    tensors: Mapping[str, Tensor], choice: str, quantised: bool
) -> tuple[torch.dtype, torch.dtype | None]:
    """Returns the dtype of the weights, and the compute dtype if it differs (None: the same)."""
    device = management.get_torch_device()
    dtype = DTYPES[choice]
    stored = max((t.dtype for t in tensors.values() if t.dtype in COMPUTE_DTYPES), key=_size, default=None)
    supported = COMPUTE_DTYPES
    if torch.float16 not in (dtype, stored) and management.should_use_bf16(device):
        # A host that prefers fp16 (--fast) would copy all weights, and values beyond 65504 would overflow.
        supported = [each for each in COMPUTE_DTYPES if each != torch.float16]
    if dtype is None:
        parameters = sum(tensor.nelement() for tensor in tensors.values())
        dtype = management.unet_dtype(
            model_params=parameters, supported_dtypes=supported, weight_dtype=None if quantised else stored
        )
    compute = management.unet_manual_cast(None if quantised else dtype, device, supported)
    # ComfyUI 0.8's scaled layers cast weights but not biases, so unscaled tensors are kept in the compute dtype
    if quantised:
        dtype = compute = compute or dtype
    return dtype, compute


def host_layers(dtype: torch.dtype, compute: torch.dtype | None, quantised: bool, choice: str = "auto") -> Any:
    """The namespace of the host's layers (`Linear`, `LayerNorm`, ...), which stream, cast and apply LoRAs."""
    config = SimpleNamespace(quant_config=QUANTISED if quantised else None)
    device = management.get_torch_device()
    layers = comfy.ops.pick_operations(dtype, compute, load_device=device, model_config=config)
    if quantised and choice not in (FP8_MATMUL, INT8_MATMUL):
        return type("ExactLayers", (layers,), {"Linear": _exact(layers.Linear)})
    if choice != FP8_MATMUL:
        return layers
    if not management.supports_fp8_compute(device):
        log.warning("%s has no fp8 matmul: weights are kept in it, matmuls are exact", device)
        return layers
    return type("Fp8MatmulLayers", (layers,), {"Linear": _with_scaled_rows(layers.Linear)})


def _exact(base: type[nn.Module]) -> type[nn.Module]:
    """Subclasses the host's linear layer, which rounds its input to int8 where its weight is int8, whatever the mark
    says: this one multiplies by the dequantised weight."""

    class Linear(base):
        def _forward(self, x, weight, bias):
            if getattr(self, "quant_format", None) == int8.FORMAT and isinstance(
                weight, comfy.quant_ops.QuantizedTensor
            ):
                weight = weight.dequantize().to(x.dtype)
            return super()._forward(x, weight, bias)

    return Linear


def _with_scaled_rows(base: type[nn.Module]) -> type[nn.Module]:
    """Subclasses the host's linear layer, which casts its input to fp8 unscaled, to scale each row to fp8's range
    first. Large values are then not clipped and small ones keep their precision, as on the command line."""

    class Linear(base):
        def forward(self, x: Tensor) -> Tensor:
            is_patched = getattr(self, "weight_function", None) or getattr(self, "bias_function", None)
            if getattr(self, "layout_type", None) is None or is_patched:
                return super().forward(x)  # not in fp8, or dequantised because the host adds a LoRA on the fly
            scale = (x.abs().amax(dim=-1, keepdim=True).float() / fp8.LARGEST).clamp_min(TINY).to(x.dtype)
            out = super().forward(x / scale)
            if self.bias is None:
                return out * scale
            bias = self.bias.to(out.device, out.dtype)
            return (out - bias) * scale + bias

    return Linear


def storage(quantised: bool) -> str:
    """The device on which a network is built before it gets its tensors: "meta", except for scaled layers, which load
    unquantised tensors to the device they were built on."""
    return "cpu" if quantised else "meta"


def assign(module: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Assigns the tensors to the module, cast one by one; memory-mapped tensors of the right dtype are not copied.
    Names and shapes must have been checked: a host that creates weights lazily would accept any."""
    own = {name: _kept(name, tensor, dtype) for name, tensor in tensors.items()}
    module.load_state_dict(own, strict=False, assign=True)
    module.requires_grad_(False).eval()
    empty = [name for name, parameter in module.named_parameters() if parameter.is_meta]
    if empty:
        raise RuntimeError(f"{len(empty)} weights were not taken, such as {empty[0]}")


def _kept(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    is_kept = tensor.itemsize == 1 or name.endswith("." + fp8.SCALE)  # 8 bits, or a mark
    return tensor if is_kept else tensor.to(dtype)


def _size(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits
