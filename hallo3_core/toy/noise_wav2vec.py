"""A toy wav2vec2 in the layout and the tensor names of wav2vec2-base-960h: a few thousand random weights.

The names are from the released file: a CTC model (prefix, head) with the weight norm of older torch versions and
without the tensor that is only used in training.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)  # 25 ms every 20 ms, as in the real model
POSITION_KERNEL, POSITION_GROUPS = 16, 2
VOCABULARY = 32

PREPROCESSOR = {
    "do_normalize": True,
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
    "sampling_rate": 16000,
}


def write_tiny_wav2vec(
    folder: Path | str, seed: int = 0, *, layers: int = 2, dim: int = 24, heads: int = 2, channels: int = 16
) -> Path:
    """Write `config.json`, `model.safetensors` and `preprocessor_config.json` into `folder`, created if missing.

    `layers` and `dim` are those of the transformer, `channels` those of the convolutions. The same arguments write the
    same bytes. Each layer ends in a norm, so features have a magnitude of about 1.

    Raises:
        ValueError: `dim` is not divisible by the heads or the groups of the position convolution.
    """
    from safetensors.torch import save_file

    if dim % heads or dim % POSITION_GROUPS:
        raise ValueError(f"dim {dim} cannot be shared among {heads} heads and {POSITION_GROUPS} groups")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(layers, dim, heads, channels)
    for name, content in (("config.json", config), ("preprocessor_config.json", PREPROCESSOR)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tensors = tiny_wav2vec_tensors(seed, layers, dim, channels)
    save_file(tensors, str(folder / "model.safetensors"), {"format": "pt"})
    return folder


def tiny_config(layers: int, dim: int, heads: int, channels: int) -> dict:
    """The keys of wav2vec2-base-960h's configuration that define the network."""
    return {
        "architectures": ["Wav2Vec2ForCTC"],
        "model_type": "wav2vec2",
        "conv_bias": False,
        "conv_dim": [channels] * len(KERNELS),
        "conv_kernel": list(KERNELS),
        "conv_stride": list(STRIDES),
        "do_stable_layer_norm": False,
        "feat_extract_activation": "gelu",
        "feat_extract_norm": "group",
        "hidden_act": "gelu",
        "hidden_size": dim,
        "intermediate_size": 2 * dim,
        "layer_norm_eps": 1e-5,
        "num_attention_heads": heads,
        "num_conv_pos_embedding_groups": POSITION_GROUPS,
        "num_conv_pos_embeddings": POSITION_KERNEL,
        "num_feat_extract_layers": len(KERNELS),
        "num_hidden_layers": layers,
        "vocab_size": VOCABULARY,
    }


def tiny_wav2vec_tensors(seed: int, layers: int, dim: int, channels: int) -> dict[str, Tensor]:
    """The tensors by their official names, float32."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    def norm(name: str, width: int) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + draw(width, scale=0.1), f"{name}.bias": draw(width, scale=0.1)}

    def linear(name: str, rows: int, columns: int) -> dict[str, Tensor]:
        return {f"{name}.weight": draw(rows, columns, scale=columns**-0.5), f"{name}.bias": draw(rows, scale=0.1)}

    extractor, encoder = "wav2vec2.feature_extractor.conv_layers", "wav2vec2.encoder"
    tensors = norm(f"{extractor}.0.layer_norm", channels)
    for n, kernel in enumerate(KERNELS):
        inputs = channels if n else 1
        scale = (2 / (inputs * kernel)) ** 0.5  # the 2 compensates for the activation
        tensors[f"{extractor}.{n}.conv.weight"] = draw(channels, inputs, kernel, scale=scale)
    tensors |= norm("wav2vec2.feature_projection.layer_norm", channels)
    tensors |= linear("wav2vec2.feature_projection.projection", dim, channels)
    position, group = f"{encoder}.pos_conv_embed.conv", dim // POSITION_GROUPS
    tensors[f"{position}.weight_v"] = draw(dim, group, POSITION_KERNEL)
    tensors[f"{position}.weight_g"] = draw(1, 1, POSITION_KERNEL).abs() * (dim / POSITION_KERNEL) ** 0.5
    tensors[f"{position}.bias"] = draw(dim, scale=0.1)
    tensors |= norm(f"{encoder}.layer_norm", dim)
    for n in range(layers):
        layer = f"{encoder}.layers.{n}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            tensors |= linear(f"{layer}.attention.{part}", dim, dim)
        tensors |= norm(f"{layer}.layer_norm", dim) | norm(f"{layer}.final_layer_norm", dim)
        tensors |= linear(f"{layer}.feed_forward.intermediate_dense", 2 * dim, dim)
        tensors |= linear(f"{layer}.feed_forward.output_dense", dim, 2 * dim)
    return tensors | linear("lm_head", VOCABULARY, dim)
