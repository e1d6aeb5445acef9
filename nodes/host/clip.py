"""The CLIP: a T5 encoder of any size in the host's network, with the core's tokenizer.

ComfyUI's loader only supports T5-XXL and reads `(word:1.3)` as emphasis, which the original does not.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.sd1_clip
import comfy.text_encoders.sd3_clip
import torch
from torch import Tensor

from ...hallo3_core.errors import InputError
from ...hallo3_core.inputs.text import SHARED, Tokenizer, encoder_tensors, prompt_tokens, read_tokenizer, read_weights
from ...hallo3_core.release.detect import expect
from ...hallo3_core.release.expected import fit
from ...hallo3_core.weights import fp8, int8
from ...hallo3_core.weights.parts import TEXT
from ...hallo3_core.weights.quantised import FLOATS, check_formats, layers_of, multiplied_out
from ...hallo3_core.weights.reading import read_tensors
from ...hallo3_core.weights.spellings import in_our_form
from .memory import host_formats, host_layers, with_marks
from .messages import speaking

KEY = "t5xxl"  # the host's name for T5 encoders of any size
SIZES = ("d_ff", "d_kv", "d_model", "num_heads", "num_layers", "vocab_size")
MARK = "encoder.block.0.layer.0.SelfAttention.q.weight"


class TextModel(comfy.sd1_clip.SD1ClipModel):
    """The host's T5 without an attention mask: padding tokens are attended to, as in training."""

    def __init__(self, device="cpu", dtype=None, model_options={}):  # noqa: B006 (the host's signature)
        super().__init__(
            device=device,
            dtype=dtype,
            name=KEY,
            clip_model=comfy.text_encoders.sd3_clip.T5XXLModel,
            model_options=model_options,
        )


class TextTokens:
    """The core's tokenizer behind the host's interface: always `count` tokens, all of weight 1."""

    def __init__(self, tokenizer: Tokenizer, count: int):
        self.tokenizer, self.count = tokenizer, count

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs) -> dict[str, list]:
        with speaking():  # runs inside CLIPTextEncode, which then shows the warning about an empty or over-long prompt
            tokens = self.tokenizer.tokens(text, self.count)
        return {KEY: [[(token, 1.0, 0) if return_word_ids else (token, 1.0) for token in tokens]]}

    def state_dict(self) -> dict:
        """Empty: the tokenizer is a separate file and is not saved with a model."""
        return {}


def load_clip(path: Path) -> Any:
    """Loads the CLIP of a T5 folder (one file or shards, with its tokenizer), or of one file with T5's tensor names,
    which may hold a whole T5. A single file uses the host's T5 tokenizer.

    Raises:
        InputError: not a T5 encoder, or tensors whose shapes do not match.
    """
    folder = path if path.is_dir() else Path(comfy.text_encoders.sd3_clip.__file__).parent / "t5_tokenizer"
    if not path.is_dir():
        expect(path, TEXT)
    tensors = for_host(encoder_tensors(in_our_form(read_weights(path) if path.is_dir() else read_tensors(path))))
    sizes = read_sizes(tensors, path)
    found = fit(TEXT, tensors)
    if lost := [*found.missing, *found.misshapen, *found.unknown]:
        raise InputError(f"{path.name}: {len(lost)} tensors do not fit a T5 v1.1 encoder, such as {lost[0]}")
    tokenizer, count = read_tokenizer(folder), prompt_tokens(folder)
    if tokenizer.size > sizes["vocab_size"]:
        raise InputError(
            f"{path.name}: the tokenizer has {tokenizer.size} tokens, the encoder {sizes['vocab_size']}. Take both "
            "from the same release: choose its folder."
        )
    target = SimpleNamespace(clip=TextModel, tokenizer=lambda **kwargs: TextTokens(tokenizer, count), params={})
    options = {f"{KEY}_model_config": sizes, "dtype": tensors[MARK].dtype}
    if any(name.endswith(".comfy_quant") for name in tensors):
        options[f"{KEY}_quantization_metadata"] = {"mixed_ops": True}
        options["dtype"] = dtype = torch.bfloat16 if tensors[SHARED].itemsize == 1 else tensors[SHARED].dtype
        options["custom_operations"] = host_layers(dtype, dtype, quantised=True)
    # with the tensors at once: a host that loads it onto the device as it is made needs its quantised layers' weights
    parameters = sum(tensor.nelement() for tensor in tensors.values())
    return comfy.sd.CLIP(target, parameters=parameters, state_dict=[tensors], model_options=options)


def for_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keeps the matrices with a scale that the host's layers can hold, with marks; dequantises all others to bfloat16.

    Raises:
        InputError: a format that is not read here.
    """
    check_formats(tensors)
    known, kept, whole = host_formats(), {}, {}
    for layer in layers_of(tensors):
        weight, scale = tensors[f"{layer}.weight"], tensors[f"{layer}.{fp8.SCALE}"]
        is_matrix = weight.ndim == 2 and layer.startswith("encoder.block.") and "relative" not in layer
        rows = scale.numel() in (1, len(weight)) if weight.dtype == torch.int8 else scale.numel() == 1
        fits = is_matrix and rows and FLOATS.get(weight.dtype, int8.FORMAT) in known
        own = (f"{layer}.weight", f"{layer}.{fp8.SCALE}", f"{layer}.{fp8.MARK}")
        (kept if fits else whole).update({name: tensors[name] for name in own if name in tensors})
    rest = {name: tensor for name, tensor in tensors.items() if name not in kept and name not in whole}
    return rest | multiplied_out(whole) | with_marks(kept)


def read_sizes(tensors: dict[str, Tensor], path: Path) -> dict[str, int]:
    """Reads the encoder's sizes from its tensors, not from a config file.

    Raises:
        InputError: not a T5 v1.1 encoder.
    """
    gate = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    lacking = [name for name in (SHARED, MARK, gate, bias) if name not in tensors]
    if lacking:
        raise InputError(
            f"{path.name} is not a T5 v1.1 encoder ({lacking[0]} missing). Choose t5-v1_1-xxl of the release, or "
            "t5xxl_fp16.safetensors."
        )
    inner, heads = tensors[MARK].shape[0], tensors[bias].shape[1]
    vocabulary, width = tensors[SHARED].shape
    layers = sum(name.endswith(".layer.0.SelfAttention.q.weight") for name in tensors if name.startswith("encoder."))
    return dict(zip(SIZES, (tensors[gate].shape[0], inner // heads, width, heads, layers, vocabulary), strict=True))
