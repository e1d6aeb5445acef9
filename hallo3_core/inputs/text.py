"""A sentence to text tokens: T5 v1.1's encoder, from a folder on this machine and nowhere else.

Source: the release pads and cuts every prompt to 226 tokens and gives T5 no attention mask, so the padding takes part.
The null of guidance is not the empty prompt but zeros. SentencePiece reads `spiece.model` itself: what transformers
makes of that file differs from version to version.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError, require
from ..weights.config_file import read_config, read_json
from ..weights.parts import fill
from ..weights.reading import read_tensors
from ..weights.shards import read_model
from ..weights.spellings import in_our_form, without_odd_scales

TEXT_TOKENS = 226
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PIECES, TOKENIZER = "spiece.model", "tokenizer.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokenizer:
    """Cuts a prompt into tokens; `end` closes a prompt and `pad` fills it up. `size`: how many tokens there are."""

    split: Callable[[str], list[int]]
    pad: int
    end: int
    size: int

    def tokens(self, prompt: str, count: int) -> list[int]:
        """Exactly `count` tokens: the prompt's, cut if need be, the end, padding. A cut prompt gets a warning.

        Raises:
            InputError: characters that are no text (half of a pair that stands for one character).
        """
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"the prompt holds {prompt[error.start : error.end]!a} at character {error.start + 1}, which is no "
                "text. Type it again, or save its file as UTF-8."
            ) from error
        if not prompt.strip():
            log.warning("the prompt is empty: portrait and sound alone decide what is seen")
        found, room = self.split(prompt), count - 1
        if len(found) > room:
            log.warning(
                "the prompt has %d tokens, of which the model reads %d: what comes from %r on is left out",
                len(found),
                room,
                self._left_out(prompt, room)[:60],
            )
        kept = found[:room]
        return [*kept, self.end, *[self.pad] * (room - len(kept))]

    def _left_out(self, prompt: str, room: int) -> str:
        """The prompt from the first word on that the first `room` tokens do not hold in full."""
        words = prompt.split()
        first = bisect_right(range(len(words)), room, key=lambda n: len(self.split(" ".join(words[: n + 1]))))
        return " ".join(words[min(first, len(words) - 1) :])


@dataclass(frozen=True)
class TextEncoder:
    """T5's encoder with its tokenizer, and how many tokens the denoiser reads."""

    model: nn.Module
    tokenizer: Tokenizer
    tokens: int = TEXT_TOKENS

    def encode(self, prompt: str) -> Tensor:
        """The prompt's text tokens ``1 m d``: T5's last hidden state, padding included.

        Raises:
            InputError: the prompt is no text, or float16 was too small for the values within.
        """
        place = self.model.shared.weight.device
        tokens = torch.tensor([self.tokenizer.tokens(prompt, self.tokens)], device=place)
        text = self.model(input_ids=tokens).last_hidden_state
        if not torch.isfinite(text).all():
            raise InputError(
                f"the text encoder's values in {text.dtype} are not finite. Load it in bfloat16 or float32, and check "
                "that its files are whole."
            )
        return text


def null_text(like: Tensor) -> Tensor:
    """The null of guidance for text tokens ``b m d``: zeros."""
    return torch.zeros_like(like)


def encoder_bytes(folder: Path, dtype: torch.dtype) -> int:
    """What the weights of `load_text_encoder` take, without reading them."""
    return sum(
        tensor.numel() * (torch.float32 if _is_wide(name, dtype) else dtype).itemsize
        for name, tensor in read_weights(folder).items()
        if is_encoders(name)
    )


def _is_wide(name: str, dtype: torch.dtype | None) -> bool:
    """T5 overflows float16 in this one matrix of each layer: there it computes in float32 and goes on with that."""
    return dtype == torch.float16 and ".wo." in name


def load_text_encoder(
    folder: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    tokens: int = TEXT_TOKENS,
) -> TextEncoder:
    """The text encoder of a transformers folder: `config.json`, safetensors in one file or more, and a tokenizer.

    dtype None keeps the stored one. Weights are mapped and moved one by one; none is ever made up.

    Raises:
        InputError: a file missing or damaged, tensors or tokenizer that do not fit, or a package not installed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected one that holds {CONFIG}, {INDEX} and {PIECES}")
    model = _build_model(folder)
    tokenizer = read_tokenizer(folder)
    if tokenizer.size > model.config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {tokenizer.size} tokens, {CONFIG} says {model.config.vocab_size}. Take both "
            "from the same release."
        )
    found = without_odd_scales(in_our_form(read_weights(folder)))
    tensors = {name: tensor for name, tensor in found.items() if is_encoders(name)}
    wide = {name: tensor.float() for name, tensor in tensors.items() if _is_wide(name, dtype)}
    fill(model, tensors, device=device, dtype=dtype, label=str(folder))
    for name, tensor in wide.items():
        model.get_parameter(name).data = tensor.to(device)
    return TextEncoder(model, tokenizer, tokens)


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder: `spiece.model`, else `tokenizer.json`.

    Raises:
        InputError: neither is there, the file is damaged or is not T5's, or the package that reads it is missing.
    """
    for name, read in ((PIECES, _read_pieces), (TOKENIZER, _read_tokenizer_json)):
        path = folder / name
        if path.is_file():
            tokenizer = read(path)
            if min(tokenizer.pad, tokenizer.end) < 0:
                raise InputError(f"{path}: has no tokens for padding and end, so it is not T5's. Take {PIECES} of T5.")
            return tokenizer
    raise InputError(f"{folder / PIECES}: missing, and no {TOKENIZER} either. Copy the tokenizer of T5 there.")


def _read_pieces(path: Path) -> Tokenizer:
    sentencepiece = require("sentencepiece", "sentencepiece", f"reading {path.name}")
    try:
        # the content, not the path: SentencePiece opens no path with letters beyond ASCII on Windows
        model = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
        size = model.get_piece_size()
        if not size:
            raise ValueError("empty")
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged, SentencePiece cannot read it. Download it again.") from error
    return Tokenizer(model.encode_as_ids, pad=model.pad_id(), end=model.eos_id(), size=size)


def _read_tokenizer_json(path: Path) -> Tokenizer:
    tokenizers = require("tokenizers", "tokenizers", f"reading {path.name}")
    try:
        model = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the package raises Exception itself
        raise InputError(f"{path}: damaged, it holds no tokenizer. Download it again.") from error
    model.no_padding()
    model.no_truncation()

    def split(prompt: str) -> list[int]:
        return model.encode(prompt, add_special_tokens=False).ids

    pad, end = (model.token_to_id(token) for token in ("<pad>", "</s>"))
    return Tokenizer(split, pad=-1 if pad is None else pad, end=-1 if end is None else end, size=model.get_vocab_size())


def _build_model(folder: Path) -> nn.Module:
    """T5's encoder as `config.json` says, on the meta device: without storage, so without made-up weights."""
    config = read_config(folder / CONFIG, "t5", "Choose the folder of T5 v1.1's encoder, or download it again.")
    transformers = require("transformers", "transformers", "the text encoder")
    try:
        with torch.device("meta"):
            model = transformers.T5EncoderModel(transformers.T5Config.from_dict(config))
    except Exception as error:  # of which kind depends on the version of transformers
        raise InputError(f"{folder / CONFIG}: no T5 can be built after it ({_reason(error)}).") from error
    model.set_input_embeddings(model.shared)  # one table; some versions make two until weights are tied
    return model


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder, mapped: of the shards that the index names, or of the one file.

    Raises:
        InputError: index and file missing, an index that is none, a shard missing or damaged.
    """
    index = folder / INDEX
    if not index.is_file():
        if (folder / WEIGHTS).is_file():
            return read_tensors(folder / WEIGHTS)
        raise InputError(f"{folder}: has neither {INDEX} nor {WEIGHTS}. Download the folder again.")
    where = read_json(index, "Download it again.").get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(shard, str) for shard in where.values()):
        raise InputError(f"{index}: has no weight_map of names. Download it again.")
    return read_model(index)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip()[:200] if lines else type(error).__name__


def is_encoders(name: str) -> bool:
    """Not the decoder that some T5 folders hold too, nor the second name of the one table of tokens."""
    return not name.startswith(("decoder.", "lm_head.")) and name != "encoder.embed_tokens.weight"
