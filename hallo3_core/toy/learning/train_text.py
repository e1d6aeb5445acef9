"""Trains the toy T5 on the world's captions: linear heads predict a caption's attributes from its hidden states. The
heads are discarded.

The tokenizer is a real SentencePiece model, trained on captions: each of their words is one token; other words are
split into pieces.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import require
from ...inputs.text import Tokenizer, read_tokenizer
from ..noise_text import LINES, SENTINELS, special_tokens, tiny_config, train_pieces
from ..sizes import LEARNT, Sizes
from ..world.captions import PHRASINGS, caption
from ..world.people import CLOTHES, EYES, HAIR, HAIR_STYLES, SKIN, draw_person
from ..world.scenes import BACKGROUND, KINDS, draw_scene
from .budget import Budget, rate

log = logging.getLogger(__name__)

PIECES = 240  # vocabulary size: the captions' words, and pieces for all others
CAPTIONS = 3000  # to train the tokenizer on
PEAK = 3e-3
LEFT_OUT = 0.1  # share of captions with only one of the two sentences
ATTRIBUTES = {
    "skin": tuple(SKIN),
    "hair": tuple(HAIR),
    "eyes": tuple(EYES),
    "clothes": tuple(CLOTHES),
    "style": tuple(HAIR_STYLES),
    "scene": tuple(KINDS),
    "colour": tuple(BACKGROUND),
    "moving": (False, True),
}
OF_SCENE = ("scene", "colour", "moving")


def describe(seed: int) -> tuple[str, list[int]]:
    """The caption of a seed's person and scene, and which of its `ATTRIBUTES` it names, in their order."""
    person, scene = draw_person(seed), draw_scene(seed)
    said = {
        **{name: getattr(person, name).name for name in ("skin", "hair", "eyes", "clothes")},
        "style": person.hair_style,
        "scene": scene.kind,
        "colour": scene.colour.name,
        "moving": scene.moving,
    }
    return caption(person, scene, seed % PHRASINGS), [ATTRIBUTES[name].index(said[name]) for name in ATTRIBUTES]


def caption_pieces() -> bytes:
    """A SentencePiece model of T5's kind in which every word of a caption is one piece; the same bytes every time."""
    return train_pieces([*LINES, *(describe(seed)[0] for seed in range(CAPTIONS))], "bpe", PIECES)


def configuration(sizes: Sizes) -> dict:
    vocabulary = -(-(PIECES + SENTINELS) // 8) * 8
    return tiny_config(vocabulary, sizes.text_width, sizes.text_layers, sizes.text_heads, sizes.text_inner)


def network(sizes: Sizes) -> nn.Module:
    """transformers' T5 encoder at the toy's sizes, untrained, without dropout."""
    transformers = require("transformers", "transformers", "the text encoder")
    return transformers.T5EncoderModel(transformers.T5Config.from_dict(configuration(sizes))).eval()


def read_captions(tokenizer: Tokenizer, seeds: range, tokens: int) -> tuple[Tensor, Tensor]:
    """Token ids ``n m`` and attributes ``n 8``; an attribute is -1 if the sentence that names it is left out."""
    rows, said = [], []
    for seed in seeds:
        text, attributes = describe(seed)
        person, _, scene = text.partition(". ")
        if seed % round(2 / LEFT_OUT) == 0:
            text = person + "."
            attributes = [-1 if name in OF_SCENE else n for name, n in zip(ATTRIBUTES, attributes, strict=True)]
        elif seed % round(2 / LEFT_OUT) == 1:
            text = scene
            attributes = [n if name in OF_SCENE else -1 for name, n in zip(ATTRIBUTES, attributes, strict=True)]
        rows.append(tokenizer.tokens(text, tokens))
        said.append(attributes)
    return torch.tensor(rows), torch.tensor(said)


class Heads(nn.Module):
    """Predicts every attribute from the mean of a caption's hidden states ``b m d``; one row of logits for each."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, len(values)) for values in ATTRIBUTES.values())

    def forward(self, hidden: Tensor) -> list[Tensor]:
        mean = hidden.mean(1)
        return [head(mean) for head in self.heads]


def train_text(
    folder: Path,
    sizes: Sizes,
    *,
    seconds: float,
    device: torch.device | str = "cpu",
    captions: int = 6000,
    batch: int = 128,
    seed: int = 0,
    on_line: Callable[[str], None] = log.info,
) -> dict[str, float]:
    """Trains and writes the text encoder's folder; returns the accuracy on held-out captions by attribute."""
    torch.manual_seed(seed)
    write_tokenizer(folder, caption_pieces())
    tokenizer = read_tokenizer(folder)
    tokens, said = (x.to(device) for x in read_captions(tokenizer, range(captions), sizes.text_tokens))
    model, heads = network(sizes).to(device).requires_grad_(True), Heads(sizes.text_width).to(device)
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, PEAK, betas=(0.9, 0.98), weight_decay=1e-3)
    budget, step, losses = Budget(seconds), 0, []
    while not budget.over:
        for group in optimizer.param_groups:
            group["lr"] = PEAK * rate(budget.share, step, warm_up=50, hold=0.3)
        chosen = torch.randint(len(tokens), (batch,), device=tokens.device)
        logits = heads(model(input_ids=tokens[chosen]).last_hidden_state)
        loss = sum(_named(x, said[chosen, n]) for n, x in enumerate(logits))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if torch.isfinite(torch.nn.utils.clip_grad_norm_(parameters, 1.0)):
            optimizer.step()
        losses.append(loss.detach())
        step += 1
    on_line(f"T5: {step} steps, last loss {torch.stack(losses[-50:]).mean().item():.4f}")
    write_text_encoder(folder, {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}, sizes)
    tokens, said = read_captions(tokenizer, range(1_000_000, 1_000_500), sizes.text_tokens)
    with torch.no_grad():
        logits = heads(model(input_ids=tokens.to(device)).last_hidden_state)
    right = {}
    for n, name in enumerate(ATTRIBUTES):
        named = said[:, n] >= 0
        right[name] = (logits[n].argmax(1).cpu()[named] == said[named, n]).float().mean().item()
    return right


def _named(logits: Tensor, said: Tensor) -> Tensor:
    """Cross entropy over the captions that name the attribute."""
    return F.cross_entropy(logits.float(), said, ignore_index=-1, reduction="sum") / len(said)


def write_tokenizer(folder: Path, pieces: bytes) -> None:
    """Writes `spiece.model` and its settings as in the official folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(pieces)
    settings = {
        **special_tokens(),
        "clean_up_tokenization_spaces": True,
        "extra_ids": SENTINELS,
        "legacy": True,
        "model_max_length": LEARNT.text_tokens,  # what the toy denoiser reads
        "sp_model_kwargs": {},
        "tokenizer_class": "T5Tokenizer",
    }
    for name, content in (("special_tokens_map.json", special_tokens()), ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_text_encoder(folder: Path, tensors: dict[str, Tensor], sizes: Sizes) -> Path:
    """Writes the encoder's weights and configuration next to the tokenizer's files."""
    from safetensors.torch import save_file

    tensors = {name: tensor.float() for name, tensor in tensors.items() if name != "encoder.embed_tokens.weight"}
    save_file(tensors, str(folder / "model.safetensors"), {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(configuration(sizes), indent=2) + "\n", encoding="utf-8")
    return folder
