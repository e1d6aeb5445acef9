"""Kinds of model files, recognised by the names and shapes of their tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from ..model.conditioning import MARK, METADATA
from . import names
from .onnx_outline import OnnxOutline
from .parts import TEXT, TEXT_PREFIX, VAE, VAE_PREFIX
from .reading import Entry
from .spellings import in_our_form

WAV2VEC, LORA = "wav2vec", "lora"
FACE_DETECTOR, FACE_RECOGNISER, VOCALS = "face_detector", "face_recogniser", "vocals"
PROJECTORS = (names.AUDIO_PROJECTOR, names.FACE_PROJECTOR)
TRANSFORMER_PARTS = (names.DENOISER, names.REFERENCE_NET, *PROJECTORS)
LABELS = {
    names.DENOISER: "the Hallo3 denoiser",
    names.REFERENCE_NET: "the Hallo3 reference network",
    names.AUDIO_PROJECTOR: "the Hallo3 projectors",
    names.FACE_PROJECTOR: "the Hallo3 projectors",
    VAE: "the CogVideoX VAE",
    TEXT: "the T5 v1.1 text encoder",
    WAV2VEC: "wav2vec2",
    FACE_DETECTOR: "a face detector",
    FACE_RECOGNISER: "a face recogniser",
    VOCALS: "a vocal separation model",
    LORA: "a CogVideoX LoRA",
}
RELEASES_OWN = "Choose the release's own file, which has the reference network too."


class Kind(Enum):
    """Kinds of files; the value is the name shown in tables."""

    TRANSFORMERS = "Hallo3 transformers (official)"
    DENOISER = "Hallo3 denoiser"
    REFERENCE_NET = "Hallo3 reference network"
    PROJECTORS = "Hallo3 projectors"
    VAE = "CogVideoX VAE"
    TEXT_ENCODER = "T5 text encoder"
    WAV2VEC = "wav2vec2"
    FACE = "face model"
    VOCALS = "vocal separation"
    LORA = "LoRA"
    COGVIDEOX = "CogVideoX transformer"
    FOREIGN = "another model"
    UNKNOWN = "unknown"
    BROKEN = "broken or refused"


@dataclass(frozen=True)
class Found:
    """What a file is: `detail` completes the sentence "<file> is ...", `advice` says what to do instead of using it.

    parts: the parts of this pack that the file holds, by the names in `LABELS`.
    """

    kind: Kind
    detail: str
    parts: tuple[str, ...] = ()
    advice: str = ""

    @property
    def is_usable(self) -> bool:
        return bool(self.parts)


def identify(header: Mapping[str, Entry], metadata: Mapping[str, str] | None = None) -> Found:
    """Identifies a file by the names and shapes of its tensors.

    A denoiser that reads neither audio nor face has exactly CogVideoX's tensors, so only the metadata, or ModelSave's
    tensor in its place, identifies it.
    """
    ours = in_our_form(header)
    if (MARK in ours or METADATA in (metadata or {})) and (found := _unheard(ours)):
        return found
    for rule in (_lora, _official, _converted, _cogvideox, _vae, _text_encoder, _wav2vec, _foreign):
        found = rule(header if rule is _text_encoder else ours)  # the text encoder's scales have their own names
        if found:
            return found
    first = ", ".join(list(header)[:3])
    return Found(Kind.UNKNOWN, f"no model that this pack knows: its {len(header)} tensors start with {first}")


def _official(header: Mapping[str, Entry]) -> Found | None:
    prefixed = {part: prefix for prefix, part in names.PREFIXES.items() if any(n.startswith(prefix) for n in header)}
    bare = "transformer.layers.0.attention.query_key_value.weight" in header
    if not prefixed and not bare:
        return None
    own = prefixed.get(names.DENOISER, "")
    if not bare and not any(n.startswith(tuple(f"{p}transformer.layers." for p in prefixed.values())) for n in header):
        return None  # another model that uses the same prefix
    layers = names.layer_count(n.removeprefix(own) for n in header if n.startswith(own))
    parts = [part for prefix, part in ((VAE_PREFIX, VAE), (TEXT_PREFIX, TEXT)) if _has(header, prefix)]
    if names.REFERENCE_NET in prefixed:
        parts.insert(0, names.REFERENCE_NET)
    variant = [f"{own}transformer.layers.0.{mark}." for mark in ("audio_tokens", "audio_adaption", "face_adaption")]
    reads = any(_has(header, mark) for mark in (f"{own}transformer.layers.0.audio_attn.", *variant))
    if (names.DENOISER in prefixed or bare) and not reads:
        model = _cogvideox_name(header.get(f"{own}mixins.patch_embed.proj.weight"))
        lack = "it has no audio attention (transformer.layers.0.audio_attn missing)"
        if names.REFERENCE_NET in prefixed:
            return Found(Kind.TRANSFORMERS, f"Hallo3's transformers without audio: {lack}", tuple(parts))
        same = "" if prefixed else " or a reference network without its prefix, which has the same tensors"
        return Found(Kind.COGVIDEOX, f"a {model} transformer{same}: {lack}")
    if bare:
        detail = f"Hallo3's denoiser without its prefix ({own or next(iter(names.PREFIXES))}), {layers} layers"
        return Found(Kind.TRANSFORMERS, detail, advice=RELEASES_OWN)
    if names.DENOISER in prefixed:
        parts = [names.DENOISER, *parts]
        parts += [
            p
            for p, n in zip(PROJECTORS, ("audio_proj", "face_proj"), strict=True)
            if _has(header, f"{own}transformer.{n}.")
        ]
    listed = ", ".join(part.replace("_", " ") for part in parts)
    return Found(
        Kind.TRANSFORMERS, f"Hallo3's transformers in official naming, {layers} layers, with {listed}", tuple(parts)
    )


def _converted(header: Mapping[str, Entry]) -> Found | None:
    found = tuple(part for part in PROJECTORS if _has(header, part + "."))
    if found:
        return Found(Kind.PROJECTORS, "Hallo3's " + " and ".join(p.replace("_", " ") for p in found), found)
    if "video_positions" not in header or not _has(header, "blocks.0.self_attention."):
        return None
    count = len(_numbers(header, r"modulation\.blocks\.(\d+)\.weight"))
    if "last_norm.weight" in header:
        return Found(Kind.REFERENCE_NET, f"Hallo3's reference network, {count} layers", (names.REFERENCE_NET,))
    if any(_has(header, f"blocks.0.{mark}.") for mark in _MARKS):
        vae = (VAE,) if "decoder.conv_in.conv.weight" in header else ()  # as CheckpointSave writes it
        return Found(Kind.DENOISER, f"Hallo3's denoiser, {count} layers", (names.DENOISER, *vae))
    lack = "it has no audio attention (blocks.0.audio_attention missing)"
    return Found(Kind.COGVIDEOX, f"a CogVideoX transformer in this pack's naming: {lack}")


_MARKS = ("audio_attention", "audio_tokens", "audio_adaption", "face_adaption")  # a denoiser has one of these


def _unheard(header: Mapping[str, Entry]) -> Found | None:
    """Identifies a denoiser whose metadata describes its conditioning, whatever it reads, in either naming."""
    if "video_positions" in header and "last_norm.weight" not in header:
        count = len(_numbers(header, r"modulation\.blocks\.(\d+)\.weight"))
        return Found(Kind.DENOISER, f"Hallo3's denoiser, conditioned in its own way, {count} layers", (names.DENOISER,))
    if not any(_has(header, prefix) for prefix, part in names.PREFIXES.items() if part == names.DENOISER):
        return None
    own = next(prefix for prefix, part in names.PREFIXES.items() if part == names.DENOISER)
    parts = [part for prefix, part in names.PREFIXES.items() if _has(header, prefix)]
    projectors = zip(PROJECTORS, ("audio_proj", "face_proj"), strict=True)
    parts += [part for part, name in projectors if _has(header, f"{own}transformer.{name}.")]
    listed = ", ".join(part.replace("_", " ") for part in parts)
    return Found(Kind.TRANSFORMERS, f"Hallo3's transformers, conditioned in its own way, with {listed}", tuple(parts))


def _cogvideox(header: Mapping[str, Entry]) -> Found | None:
    for prefix in ("", "transformer.", "diffusion_model.", "model.diffusion_model."):
        stem = f"{prefix}transformer_blocks.0."
        if f"{stem}attn1.to_q.weight" in header and f"{stem}norm1.linear.weight" in header:
            model = _cogvideox_name(header.get(f"{prefix}patch_embed.proj.weight"))
            lack = "it has no audio attention (transformer.layers.0.audio_attn missing)"
            return Found(Kind.COGVIDEOX, f"a {model} transformer in diffusers naming: {lack}")
    return None


def _cogvideox_name(patch: Entry | None) -> str:
    """Name of the CogVideoX model: the width gives its size; image-to-video models have twice the input channels."""
    if patch is None or len(patch.shape) < 2:
        return "CogVideoX"
    size = {1920: "-2B", 3072: "-5B"}.get(patch.shape[0], "")
    return f"CogVideoX{size}{'-I2V' if patch.shape[1] == 32 else ''}"


def _vae(header: Mapping[str, Entry]) -> Found | None:
    prefix = VAE_PREFIX if _has(header, VAE_PREFIX) else ""
    whole = all(f"{prefix}{half}.conv_in.conv.weight" in header for half in ("encoder", "decoder"))
    for naming, probe in (("official", "mid.block_1"), ("diffusers", "mid_block.resnets.0")):
        if f"{prefix}decoder.{probe}.norm1.norm_layer.weight" in header:
            if not whole:
                return Found(
                    Kind.VAE, "half of a CogVideoX VAE: encoder or decoder missing", advice="Choose a whole one."
                )
            if prefix:
                return Found(
                    Kind.VAE, f"a CogVideoX VAE under the prefix {prefix}", advice="Choose the VAE's own file."
                )
            return Found(Kind.VAE, f"a CogVideoX VAE in {naming} naming", (VAE,))
    return None


def _text_encoder(header: Mapping[str, Entry]) -> Found | None:
    blocks = _numbers(header, r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.q\.weight")
    words = header.get("shared.weight") or header.get("encoder.embed_tokens.weight")
    if not blocks or words is None:
        return None
    biases = len(_numbers(header, r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.weight"))
    sizes = f"{len(blocks)} layers, width {words.shape[-1] if words.shape else 0}"
    choose = "Choose T5-XXL v1.1's encoder."
    if biases > 1:
        return Found(
            Kind.FOREIGN, f"a UMT5 text encoder ({sizes}): it has a position bias in every layer", advice=choose
        )
    if "encoder.block.0.layer.1.DenseReluDense.wi_0.weight" not in header:
        return Found(Kind.FOREIGN, f"a T5 text encoder of version 1.0 ({sizes}): it has no gate", advice=choose)
    scaled = (
        ", scaled fp8"
        if any(n == "scaled_fp8" or n.endswith((".scale_weight", ".weight_scale")) for n in header)
        else ""
    )
    return Found(Kind.TEXT_ENCODER, f"a T5 v1.1 text encoder, {sizes}{scaled}", (TEXT,))


def _wav2vec(header: Mapping[str, Entry]) -> Found | None:
    prefix = "wav2vec2." if _has(header, "wav2vec2.") else ""
    first = header.get(f"{prefix}feature_extractor.conv_layers.0.conv.weight")
    layers = _numbers(header, re.escape(prefix) + r"encoder\.layers\.(\d+)\.attention\.q_proj\.weight")
    width = header.get(f"{prefix}feature_projection.projection.weight")
    if first is None or width is None or not layers:
        return None
    return Found(
        Kind.WAV2VEC, f"a wav2vec2, {len(layers)} layers, width {width.shape[0] if width.shape else 0}", (WAV2VEC,)
    )


def _lora(header: Mapping[str, Entry]) -> Found | None:
    pairs = [n for n in header if re.search(r"\.lora_(down|up|A|B)\.|\.lora\.(down|up)\.", n)]
    if not pairs:
        return None
    if any(
        re.search(r"transformer_blocks[._]\d+[._]attn1|blocks\.\d+\.(self|face|audio)_attention|^audio_projector\.", n)
        for n in pairs
    ):
        return Found(Kind.LORA, f"a CogVideoX LoRA of {len(pairs)} tensors", (LORA,), "Load it with the LoRA loader.")
    return Found(Kind.LORA, f"a LoRA for another model: it touches {pairs[0]}")


def _foreign(header: Mapping[str, Entry]) -> Found | None:
    """Identifies other models that users may have and confuse with this one."""
    stems = {re.sub(r"^(model\.)?diffusion_model\.", "", name) for name in header}
    for probe, model in (
        ("blocks.0.self_attn.q.weight", "a Wan video transformer"),
        ("patch_embedding.weight", "a Wan video transformer"),
        ("condition_embedder.time_embedder.linear_1.weight", "a Wan video transformer in diffusers naming"),
        ("double_blocks.0.img_attn.qkv.weight", "a Flux or HunyuanVideo transformer"),
        ("double_blocks.0.img_attn_qkv.weight", "a HunyuanVideo transformer"),
        ("patchify_proj.weight", "an LTX video transformer"),
        ("t5_y_embedder.to_kv.weight", "a Mochi video transformer"),
        ("transformer_blocks.0.img_mod.1.weight", "a Qwen-Image transformer"),
        ("joint_blocks.0.context_block.attn.qkv.weight", "a Stable Diffusion 3 transformer"),
        ("input_blocks.0.0.weight", "a Stable Diffusion network"),
        ("decoder.middle.0.residual.0.gamma", "a Wan VAE"),
        ("decoder.mid.block_1.norm1.weight", "a Stable Diffusion VAE"),
        ("decoder.mid_block.resnets.0.norm1.weight", "a Stable Diffusion VAE"),
        ("text_model.encoder.layers.0.self_attn.q_proj.weight", "a CLIP text encoder"),
        ("first_stage_model.decoder.mid.block_1.norm1.weight", "a Stable Diffusion checkpoint"),
    ):
        if probe in stems:
            return Found(Kind.FOREIGN, f"{model}, which this pack does not use")
    return None


def identify_onnx(outline: OnnxOutline) -> Found:
    """Identifies an ONNX file by its inputs and outputs."""
    inputs, outputs = list(outline.inputs.values()), list(outline.outputs.values())
    match inputs, outputs:
        case [(_, 3, _, _)], _ if len(outputs) == 9:
            return Found(Kind.FACE, "a face detector with five landmarks (SCRFD)", (FACE_DETECTOR,))
        case [(_, 3, 112, 112)], [(_, 512)]:
            return Found(Kind.FACE, "a face recogniser (ArcFace)", (FACE_RECOGNISER,))
        case [(_, 4, bins, frames)], [(_, 4, *_)] if bins and frames:
            return Found(Kind.VOCALS, f"a vocal separation model (MDX, {bins} bins, {frames} frames)", (VOCALS,))
        case [(_, 3, side, _)], _ if side in (96, 192):
            return Found(Kind.FACE, "a face model for landmarks or age, which this pack does not use")
    return Found(Kind.UNKNOWN, f"an ONNX file with {len(inputs)} inputs and {len(outputs)} outputs")


def _has(header: Mapping[str, Entry], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in header)


def _numbers(header: Mapping[str, Entry], pattern: str) -> list[int]:
    return sorted(int(match.group(1)) for name in header if (match := re.fullmatch(pattern, name)))
