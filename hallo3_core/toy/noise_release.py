"""The untrained toy release: official layout and tensor names at toy sizes, random weights. Runs every path on a CPU.

The weights are noise, so its films show patterns, not people. They prove that files, sizes, audio and clips fit
together.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..model.config import Grid, TransformerConfig
from ..model.positions import rotary_table
from ..release.layout import (
    FACE_FOLDER,
    TEXT_FOLDER,
    TOY_NOTICE,
    TRANSFORMER_FILE,
    TRANSFORMER_FOLDER,
    VAE_FILE,
    WAV2VEC_FOLDER,
)
from ..weights import names

NOTICE = """This is a toy release: seeded noise in the official layout, for trying the program without 40 GB of weights.
A video made with it shows patterns, not a talking person.
"""
AUDIO_LAYERS, AUDIO_WIDTH = 3, 24
AUDIO_INNER, AUDIO_TOKENS, AUDIO_TOKEN_WIDTH = 40, 4, 48
FACE_EMBEDDING, FACE_TOKENS, FACE_TOKEN_WIDTH = 512, 4, 56
WINDOW = 5

CONFIG = TransformerConfig(
    hidden=64,
    heads=4,
    layers=3,
    mlp=256,
    time=32,
    text_width=40,
    text_tokens=226,
    grid=Grid(13, 6, 9),  # 96x144 pixels: the released aspect ratio 2:3
    channels=16,
    patch=2,
    face=FACE_TOKEN_WIDTH,
    audio=AUDIO_TOKEN_WIDTH,
)


def write_tiny_release(folder: Path | str, seed: int = 0) -> Path:
    """Writes the toy release into `folder`, which must be missing or empty.

    Raises:
        InputError: the folder is not empty.
    """
    from .noise_face import write_tiny_face
    from .noise_text import write_tiny_text_encoder
    from .noise_vae import tiny_vae_tensors
    from .noise_wav2vec import write_tiny_wav2vec

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: not empty; name a new folder for the toy release")
    transformers, vae = folder / TRANSFORMER_FOLDER / "1" / TRANSFORMER_FILE, folder / VAE_FILE
    transformers.parent.mkdir(parents=True)
    vae.parent.mkdir(parents=True)
    (folder / TOY_NOTICE).write_text(NOTICE)
    (folder / TRANSFORMER_FOLDER / "latest").write_text("1")
    torch.save({"module": file_tensors(seed)}, transformers)
    torch.save({"state_dict": tiny_vae_tensors(seed + 1)}, vae)
    write_tiny_text_encoder(folder / TEXT_FOLDER, seed + 2, dim=CONFIG.text_width)
    write_tiny_wav2vec(folder / WAV2VEC_FOLDER, seed + 3, layers=AUDIO_LAYERS, dim=AUDIO_WIDTH)
    write_tiny_face(folder / FACE_FOLDER, seed + 4)
    return folder


def file_tensors(seed: int, config: TransformerConfig = CONFIG) -> dict[str, Tensor]:
    """Denoiser and reference network by official name, bfloat16."""
    draw = Draw(seed)
    tensors = {}
    for prefix, part in names.PREFIXES.items():
        own = transformer_tensors(draw, config, conditions=part == names.DENOISER)
        tensors.update({prefix + name: tensor for name, tensor in own.items()})
    return tensors


def transformer_tensors(draw: Draw, config: TransformerConfig, conditions: bool) -> dict[str, Tensor]:
    """One transformer, official names without prefix; with `conditions` face and audio attention and projectors."""
    d, e, head, patch = config.hidden, config.time, config.head, config.patch**2
    rotary = rotary_table(config.grid, config.grid, head)
    tensors = {
        "mixins.pos_embed.pos_embedding": draw(1, config.text_tokens + config.grid.tokens, d, scale=0.3),
        "mixins.pos_embed.freqs_sin": rotary.sin.repeat_interleave(2, dim=1).bfloat16(),
        "mixins.pos_embed.freqs_cos": rotary.cos.repeat_interleave(2, dim=1).bfloat16(),
        "mixins.patch_embed.proj.weight": draw(d, 2 * config.channels, config.patch, config.patch, scale=0.1),
        "mixins.patch_embed.proj.bias": draw(d, scale=0.02),
        **draw.linear("mixins.patch_embed.text_proj", d, config.text_width),
        **draw.linear("mixins.final_layer.linear", config.channels * patch, d),
        **draw.linear("mixins.final_layer.adaLN_modulation.1", 2 * d, e),
        **draw.norm("mixins.final_layer.norm_final", d),
        **draw.norm("transformer.final_layernorm", d),
        **draw.linear("time_embed.0", e, d),
        **draw.linear("time_embed.2", e, e),
        "transformer.position_embeddings.weight": draw(64, d),
    }
    for n in range(config.layers):
        layer = f"transformer.layers.{n}"
        tensors |= draw.linear(f"mixins.adaln_layer.adaLN_modulations.{n}.1", 12 * d, e)
        tensors |= draw.norm(f"mixins.adaln_layer.query_layernorm_list.{n}", head)
        tensors |= draw.norm(f"mixins.adaln_layer.key_layernorm_list.{n}", head)
        tensors |= draw.norm(f"{layer}.input_layernorm", d) | draw.norm(f"{layer}.post_attention_layernorm", d)
        tensors |= draw.linear(f"{layer}.attention.query_key_value", 3 * d, d)
        tensors |= draw.linear(f"{layer}.attention.dense", d, d)
        tensors |= draw.linear(f"{layer}.mlp.dense_h_to_4h", config.mlp, d)
        tensors |= draw.linear(f"{layer}.mlp.dense_4h_to_h", d, config.mlp)
        for kind, width in (("face", config.face), ("audio", config.audio)) if conditions else ():
            tensors |= draw.norm(f"{layer}.{kind}_input_layernorm", d)
            tensors |= draw.linear(f"{layer}.{kind}_attn.query", d, d)
            tensors |= draw.linear(f"{layer}.{kind}_attn.key_value", 2 * d, width)
            tensors |= draw.linear(f"{layer}.{kind}_attn.dense", d, d)
    if conditions:
        out = AUDIO_TOKENS * AUDIO_TOKEN_WIDTH
        audio, face = "transformer.audio_proj", "transformer.face_proj"
        tensors |= draw.linear(f"{audio}.proj1", AUDIO_INNER, WINDOW * AUDIO_LAYERS * AUDIO_WIDTH)
        tensors |= draw.linear(f"{audio}.proj2", AUDIO_INNER, AUDIO_INNER)
        tensors |= draw.linear(f"{audio}.proj3", out, AUDIO_INNER)
        tensors[f"{audio}.conv1.weight"] = draw(out, out, 2, scale=(2 * out) ** -0.5)
        tensors[f"{audio}.conv1.bias"] = draw(out, scale=0.02)
        tensors |= draw.norm(f"{audio}.norm", AUDIO_TOKEN_WIDTH)
        tensors |= draw.linear(f"{face}.proj", FACE_TOKENS * FACE_TOKEN_WIDTH, FACE_EMBEDDING)
        tensors |= draw.norm(f"{face}.norm", FACE_TOKEN_WIDTH)
    return tensors


class Draw:
    """Seeded noise scaled like trained weights: matrices that preserve a signal's magnitude, norms near one."""

    def __init__(self, seed: int):
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=self._generator) * scale).bfloat16()

    def linear(self, name: str, rows: int, columns: int) -> dict[str, Tensor]:
        return {
            f"{name}.weight": self(rows, columns, scale=columns**-0.5),
            f"{name}.bias": self(rows, scale=0.02),
        }

    def norm(self, name: str, width: int) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + self(width, scale=0.1), f"{name}.bias": self(width, scale=0.02)}
