"""Encodes a prompt to text tokens with T5 v1.1's encoder, read from a local folder only.

Source: the release pads or truncates every prompt to 226 tokens and gives T5 no attention mask, so padding tokens are
attended to. The null of guidance is zeros, not the empty prompt. SentencePiece reads `spiece.model` directly, because
transformers' handling of that file differs between versions.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError, require, require_class
from ..runtime.without_storage import without_storage
from ..weights.config_file import read_config, read_json
from ..weights.model_folder import read_folder
from ..weights.parts import fill
from ..weights.quantised import with_our_layers
from ..weights.spellings import in_our_form

TEXT_TOKENS = 226
CONFIG = "config.json"
SHARED, EMBEDDED = "shared.weight", "encoder.embed_tokens.weight"
PIECES, TOKENIZER = "spiece.model", "tokenizer.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokenizer:
    """Splits a prompt into tokens. `end` and `pad` are the ids of those tokens, `size` is the vocabulary size."""

    split: Callable[[str], list[int]]
    pad: int
    end: int
    size: int

    def tokens(self, prompt: str, count: int) -> list[int]:
        """Exactly `count` tokens: the prompt, truncated if necessary with a warning, the end token, and padding.

        Raises:
            InputError: the prompt is not valid Unicode (an unpaired surrogate).
        """
        prompt = prompt.removeprefix("\ufeff")  # a text file's byte order mark
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"the prompt's character {error.start + 1}, {prompt[error.start : error.end]!a}, is broken. Type it "
                "again, or save its file as UTF-8."
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
        """The rest of the prompt, from the first word that does not fit entirely in `room` tokens."""
        words = prompt.split()
        first = bisect_right(range(len(words)), room, key=lambda n: len(self.split(" ".join(words[: n + 1]))))
        return " ".join(words[min(first, len(words) - 1) :])


@dataclass(frozen=True)
class TextEncoder:
    """T5's encoder, its tokenizer, and the number of text tokens that the denoiser reads."""

    model: nn.Module
    tokenizer: Tokenizer
    tokens: int = TEXT_TOKENS

    def encode(self, prompt: str) -> Tensor:
        """Encodes the prompt to text tokens ``1 m d``: T5's last hidden state, including padding.

        Raises:
            InputError: the prompt is not valid Unicode, or the result is NaN or infinite, as when float16 overflows.
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
    """Size in bytes of the weights that `load_text_encoder` would load, without reading them."""
    return sum(
        tensor.numel() * (torch.float32 if _is_wide(name, dtype) else dtype).itemsize
        for name, tensor in encoder_tensors(read_weights(folder)).items()
    )


def _is_wide(name: str, dtype: torch.dtype | None) -> bool:
    """Whether a weight stays in float32: T5 overflows float16 in the `wo` matrix of each layer."""
    return dtype == torch.float16 and ".wo." in name


def load_text_encoder(
    folder: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    tokens: int = TEXT_TOKENS,
) -> TextEncoder:
    """Loads the text encoder from a transformers folder: `config.json`, weights in any of its forms, and a tokenizer.

    dtype None keeps the stored dtype. Weights are memory-mapped and moved one at a time. None is initialised at random.

    Raises:
        InputError: a file is missing or damaged, tensors or tokenizer do not fit, or a package is not installed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected one that holds {CONFIG}, weights and {PIECES}")
    model = _build_model(folder)
    tokenizer = read_tokenizer(folder)
    if tokenizer.size > model.config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {tokenizer.size} tokens, {CONFIG} says {model.config.vocab_size}. Take both "
            "from the same release."
        )
    tensors = encoder_tensors(with_our_layers(in_our_form(read_weights(folder))))
    wide = {name: tensor.float() for name, tensor in tensors.items() if _is_wide(name, dtype)}
    fill(model, tensors, device=device, dtype=dtype, label=str(folder))
    for name, tensor in wide.items():
        model.get_parameter(name).data = tensor.to(device)
    return TextEncoder(model, tokenizer, tokens)


def prompt_tokens(folder: Path) -> int:
    """Tokens that the T5 of `folder` makes of every prompt: the release's 226, or fewer if its tokenizer says so.

    A toy's denoiser reads fewer; the released tokenizer names more (512), which nothing uses.
    """
    path = folder / "tokenizer_config.json"
    longest = read_json(path, "Copy the tokenizer of T5 there.").get("model_max_length") if path.is_file() else None
    return min(TEXT_TOKENS, longest) if isinstance(longest, int) and longest > 0 else TEXT_TOKENS


def read_tokenizer(folder: Path) -> Tokenizer:
    """Reads a folder's tokenizer: `spiece.model`, else `tokenizer.json`.

    Raises:
        InputError: both are missing, the file is damaged or not T5's, or the package that reads it is not installed.
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
        # pass the content, not the path: on Windows, SentencePiece cannot open paths with non-ASCII letters
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
        model = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8-sig"))
    except Exception as error:  # the package raises plain Exception
        raise InputError(f"{path}: damaged, it holds no tokenizer. Download it again.") from error
    model.no_padding()
    model.no_truncation()

    def split(prompt: str) -> list[int]:
        return model.encode(prompt, add_special_tokens=False).ids

    pad, end = (model.token_to_id(token) for token in ("<pad>", "</s>"))
    return Tokenizer(split, pad=-1 if pad is None else pad, end=-1 if end is None else end, size=model.get_vocab_size())


def _build_model(folder: Path) -> nn.Module:
    """Builds T5's encoder from `config.json` on the meta device: no storage, so no random weights."""
    config = read_config(folder / CONFIG, "t5", "Choose the folder of T5 v1.1's encoder, or download it again.")
    settings = require_class("transformers", "T5Config", "transformers", "the text encoder")
    network = require_class("transformers", "T5EncoderModel", "transformers", "the text encoder")
    try:
        model = without_storage(network, settings.from_dict(config))
    except Exception as error:  # its class depends on the version of transformers
        raise InputError(f"{folder / CONFIG}: describes no usable T5 ({_reason(error)}).") from error
    model.set_input_embeddings(model.shared)  # one embedding table; some versions create two until weights are tied
    return model


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors in the folder, memory-mapped.

    Raises:
        InputError: as `read_folder`.
    """
    return read_folder(folder, "Download the folder of T5 v1.1's encoder again.")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip()[:200] if lines else type(error).__name__


def encoder_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's tensors: without the decoder, which some T5 folders also contain. The token embedding, which files
    may hold under two names, has the one of the whole T5."""
    found = {name: tensor for name, tensor in tensors.items() if not name.startswith(("decoder.", "lm_head."))}
    embedding = found.pop(EMBEDDED, None)
    if embedding is not None:
        found.setdefault(SHARED, embedding)
    return found
