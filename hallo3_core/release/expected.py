"""The tensors that a network must have, derived from the sizes of those it has, so that missing ones can be named."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from torch import Tensor

from ..errors import InputError
from ..model.config import Shape
from ..vae.autoencoder import VaeConfig, build_vae
from ..weights import fp8
from ..weights.kinds import TRANSFORMER_PARTS, WAV2VEC
from ..weights.parts import TEXT, VAE, Parts, build
from ..weights.vae_names import LOSS, in_diffusers_names, to_original

# Extra tensors that quantised files store per weight; only the weight's own layer reads them.
SCALES = (f".{fp8.MARK}", f".{fp8.SCALE}", ".scale_weight", ".scale_input", ".input_scale")
SCALED_MARK = "scaled_fp8"
SHARED, EMBEDDED = "shared.weight", "encoder.embed_tokens.weight"


class Comparison:
    """Result of comparing a part's tensors with those that its network must have.

    missing and misshapen: lines that name tensors; unknown: names; unused: name -> why it is not needed.
    """

    def __init__(self):
        self.missing: list[str] = []
        self.misshapen: list[str] = []
        self.unknown: list[str] = []
        self.unused: dict[str, str] = {}

    def compare(self, found: Mapping[str, Shape], expected: Mapping[str, Shape | None]) -> None:
        """Compares a part's shapes with the expected ones; None: any shape."""
        self.missing += sorted(expected.keys() - found.keys())
        for name, shape in found.items():
            if name not in expected:
                if not name.endswith(SCALES) and name != SCALED_MARK:
                    self.unknown.append(name)
            elif expected[name] is not None and tuple(shape) != tuple(expected[name]):
                self.misshapen.append(f"{name} has shape {list(shape)}, expected {list(expected[name])}")


def fit(part: str, tensors: Mapping[str, Tensor]) -> Comparison:
    """Compares one part's tensors with those of its network. Face models and LoRAs have no fixed list.

    The four parts of the transformer file are in our names, all others in the file's.

    Raises:
        InputError: a tensor that determines a size is missing.
    """
    result = Comparison()
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if part in TRANSFORMER_PARTS:
        module = build(Parts({part: dict(tensors)}), part)
        result.compare(found, {name: tuple(p.shape) for name, p in module.named_parameters()})
    elif part == VAE:
        result.unused = {name: "kept by training: its loss" for name in found if name.startswith(LOSS)}
        is_official = any(name.startswith("decoder.mid.") for name in found)
        module = build_vae(VaeConfig.from_shapes(found)).autoencoder
        result.compare(in_diffusers_names(found), {name: tuple(p.shape) for name, p in module.named_parameters()})
        if is_official:
            result.missing = [to_original(name) for name in result.missing]
            result.unknown = [to_original(name) for name in result.unknown]
    elif part == TEXT:
        _fit_text_encoder(result, found)
    elif part == WAV2VEC:
        _fit_wav2vec(result, found)
    return result


def _fit_text_encoder(result: Comparison, found: dict[str, Shape]) -> None:
    if {SHARED, EMBEDDED} <= found.keys():
        result.unused[EMBEDDED] = f"the same as {SHARED}"
    result.unused |= {name: "the decoder is not used" for name in found if name.startswith(("decoder.", "lm_head."))}
    own = {name: shape for name, shape in found.items() if name not in result.unused}
    words = own.get(SHARED) or own.get(EMBEDDED)
    query = own.get("encoder.block.0.layer.0.SelfAttention.q.weight")
    inner = own.get("encoder.block.0.layer.1.DenseReluDense.wi_0.weight")
    bias = own.get("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    if not (words and query and inner):
        raise InputError("the text encoder lacks a tensor that tells its sizes")
    layers = _count(own, "encoder.block.")
    expected: dict[str, Shape | None] = {SHARED if SHARED in own else EMBEDDED: words}
    expected |= _text_encoder(layers, words[-1], query[0], inner[0], bias)
    result.compare(own, expected)


def _text_encoder(layers: int, width: int, heads: int, inner: int, bias: Shape | None) -> Iterator[tuple[str, Shape]]:
    for n in range(layers):
        attention, gated = f"encoder.block.{n}.layer.0", f"encoder.block.{n}.layer.1"
        for letter in "qkv":
            yield f"{attention}.SelfAttention.{letter}.weight", (heads, width)
        yield f"{attention}.SelfAttention.o.weight", (width, heads)
        yield f"{attention}.layer_norm.weight", (width,)
        yield f"{gated}.DenseReluDense.wi_0.weight", (inner, width)
        yield f"{gated}.DenseReluDense.wi_1.weight", (inner, width)
        yield f"{gated}.DenseReluDense.wo.weight", (width, inner)
        yield f"{gated}.layer_norm.weight", (width,)
    yield "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", bias
    yield "encoder.final_layer_norm.weight", (width,)


def _fit_wav2vec(result: Comparison, found: dict[str, Shape]) -> None:
    prefix = "wav2vec2." if any(name.startswith("wav2vec2.") for name in found) else ""
    for name in found:
        if name.startswith(("lm_head.", "quantizer.", "project_")):
            result.unused[name] = "the head for recognising text or for training"
        elif name == f"{prefix}masked_spec_embed":
            result.unused[name] = "used by training only"
    own = {name: shape for name, shape in found.items() if name not in result.unused}
    (width, channels) = own[f"{prefix}feature_projection.projection.weight"]
    layers = _count(own, f"{prefix}encoder.layers.")
    expected = {prefix + name: shape for name, shape in _wav2vec(layers, width, channels)}
    convolutions = f"{prefix}feature_extractor.conv_layers."
    position = f"{prefix}encoder.pos_conv_embed.conv."
    count = _count(own, convolutions)
    expected |= {f"{convolutions}{n}.conv.weight": None for n in range(count)}
    # wav2vec models differ in the biases and norms of their convolutions. The position weights are one tensor, or a
    # magnitude and a direction (weight normalisation), which have two spellings.
    free = {n for n in own if n.startswith((convolutions, position)) and n not in expected}
    pairs = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))
    if not any({position + n for n in pair} <= own.keys() for pair in (*pairs, ("weight",))):
        result.missing.append(position + pairs[0][1])
    result.compare({name: shape for name, shape in own.items() if name not in free}, expected)


def _wav2vec(layers: int, width: int, channels: int) -> Iterator[tuple[str, Shape | None]]:
    yield from (
        ("feature_projection.layer_norm.weight", (channels,)),
        ("feature_projection.layer_norm.bias", (channels,)),
        ("feature_projection.projection.weight", (width, channels)),
        ("feature_projection.projection.bias", (width,)),
        ("encoder.layer_norm.weight", (width,)),
        ("encoder.layer_norm.bias", (width,)),
    )
    for n in range(layers):
        for stem in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"encoder.layers.{n}.attention.{stem}.weight", (width, width)
            yield f"encoder.layers.{n}.attention.{stem}.bias", (width,)
        for stem in ("layer_norm", "final_layer_norm"):
            yield f"encoder.layers.{n}.{stem}.weight", (width,)
            yield f"encoder.layers.{n}.{stem}.bias", (width,)
        for stem in ("intermediate_dense", "output_dense"):
            yield f"encoder.layers.{n}.feed_forward.{stem}.weight", None
            yield f"encoder.layers.{n}.feed_forward.{stem}.bias", None


def _count(found: Collection[str], prefix: str) -> int:
    """Number of indexed names after `prefix`: the highest index plus one, but at most the number of names."""
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in found if name.startswith(prefix)}
    return min(1 + max((int(n) for n in numbers if n.isdecimal() and len(n) < 9), default=-1), len(found))
