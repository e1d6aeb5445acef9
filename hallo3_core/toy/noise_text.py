"""The toy text encoder: a real T5 v1.1 encoder of a few kilobytes in the official folder layout, with random weights.

Its tokenizer is a real SentencePiece model too, trained on the lines below, so that any prompt has tokens.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from ..errors import require

SHARD = "model-{:05d}-of-{:05d}.safetensors"
SENTINELS = 100  # <extra_id_0> and so on: T5's mask tokens, which follow the vocabulary
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
PIECES = 160  # vocabulary size
BUCKETS, DISTANCE = 32, 128  # of the relative positions

LINES = (
    "A person is talking to the camera.",
    "A woman with brown hair speaks in a calm voice, looking straight at the camera.",
    "A man with a short beard and glasses is smiling while he explains something.",
    "The speaker nods, raises an eyebrow and moves the lips in time with the words.",
    "Soft light falls on the face of a young girl who sings a quiet song.",
    "An old man tells a story; the background is blurred and the picture is sharp.",
    "Close-up portrait of a news reader in a blue jacket, studio lights, high quality.",
    "Two friends are laughing, one of them turns the head to the left and to the right.",
    "The quick brown fox jumps over the lazy dog. 0 1 2 3 4 5 6 7 8 9 ! ? ( ) - ' \" & % @ #",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz",
)


def write_tiny_text_encoder(
    folder: Path | str, seed: int = 0, *, dim: int = 40, layers: int = 2, heads: int = 4, inner: int = 64
) -> Path:
    """Writes the folder, created if missing: configuration, two shards with their index, tokenizer with its settings.

    `dim` is the width of a text token, `inner` that of the feed-forward layers. The same arguments write the
    same bytes.

    Raises:
        ValueError: `dim` is not divisible by the number of heads.
        InputError: sentencepiece is not installed.
    """
    from safetensors.torch import save_file

    if dim % heads:
        raise ValueError(f"dim {dim} cannot be shared among {heads} heads")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = -(-(PIECES + SENTINELS) // 8) * 8  # rounded up, as 32100 to 32128 in the real model
    tensors = tiny_text_tensors(seed, vocabulary, dim, layers, heads, inner)
    (folder / "spiece.model").write_bytes(train_pieces())
    names = sorted(tensors)
    shards = [names[: len(names) // 2], names[len(names) // 2 :]]
    where = {}
    for n, members in enumerate(shards, 1):
        file = SHARD.format(n, len(shards))
        where |= dict.fromkeys(members, file)
        save_file({name: tensors[name] for name in members}, str(folder / file), {"format": "pt"})
    size = sum(tensor.nbytes for tensor in tensors.values())
    for name, content in {
        "config.json": tiny_config(vocabulary, dim, layers, heads, inner),
        "model.safetensors.index.json": {"metadata": {"total_size": size}, "weight_map": where},
        "special_tokens_map.json": special_tokens(),
        "tokenizer_config.json": {
            **special_tokens(),
            "clean_up_tokenization_spaces": True,
            "extra_ids": SENTINELS,
            "legacy": True,
            "model_max_length": 512,
            "sp_model_kwargs": {},
            "tokenizer_class": "T5Tokenizer",
        },
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return folder


def special_tokens() -> dict:
    """T5's special tokens, as listed in both tokenizer files."""
    sentinels = [f"<extra_id_{n}>" for n in range(SENTINELS)]
    return {"additional_special_tokens": sentinels, "eos_token": END, "pad_token": PAD, "unk_token": UNKNOWN}


def tiny_config(vocabulary: int, dim: int, layers: int, heads: int, inner: int) -> dict:
    """The keys of t5-v1_1-xxl's configuration that define the network."""
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "d_ff": inner,
        "d_kv": dim // heads,
        "d_model": dim,
        "decoder_start_token_id": 0,
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "is_gated_act": True,
        "layer_norm_epsilon": 1e-6,
        "num_decoder_layers": layers,
        "num_heads": heads,
        "num_layers": layers,
        "pad_token_id": 0,
        "relative_attention_max_distance": DISTANCE,
        "relative_attention_num_buckets": BUCKETS,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": vocabulary,
    }


def tiny_text_tensors(seed: int, vocabulary: int, dim: int, layers: int, heads: int, inner: int) -> dict[str, Tensor]:
    """The encoder's tensors by their official names, bfloat16. T5 does not scale attention by the head size, so
    its query weights are smaller by that factor."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * scale).bfloat16()

    def norm() -> Tensor:
        return 1 + draw(dim, scale=0.1)

    tensors = {"shared.weight": draw(vocabulary, dim), "encoder.final_layer_norm.weight": norm()}
    for n in range(layers):
        attention, feed = f"encoder.block.{n}.layer.0", f"encoder.block.{n}.layer.1"
        tensors[f"{attention}.SelfAttention.q.weight"] = draw(dim, dim, scale=heads**0.5 / dim)
        for part in "kvo":
            tensors[f"{attention}.SelfAttention.{part}.weight"] = draw(dim, dim, scale=dim**-0.5)
        tensors[f"{feed}.DenseReluDense.wi_0.weight"] = draw(inner, dim, scale=dim**-0.5)
        tensors[f"{feed}.DenseReluDense.wi_1.weight"] = draw(inner, dim, scale=dim**-0.5)
        tensors[f"{feed}.DenseReluDense.wo.weight"] = draw(dim, inner, scale=inner**-0.5)
        tensors |= {f"{attention}.layer_norm.weight": norm(), f"{feed}.layer_norm.weight": norm()}
    tensors["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = draw(BUCKETS, heads, scale=0.5)
    return tensors


def train_pieces(lines: Iterable[str] = LINES, kind: str = "unigram", size: int = PIECES) -> bytes:
    """A SentencePiece model of T5's kind: padding 0, end 1, unknown 2, no begin token; the same bytes every time."""
    sentencepiece = require("sentencepiece", "sentencepiece", "making the toy tokenizer")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type=kind,
        vocab_size=size,
        num_threads=1,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece=PAD,
        eos_piece=END,
        unk_piece=UNKNOWN,
        minloglevel=2,
    )
    return model.getvalue()
