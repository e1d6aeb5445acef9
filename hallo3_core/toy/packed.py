"""The trained toy's networks as the package holds them. Imports little, since messages ask whether they are there."""

from __future__ import annotations

from pathlib import Path

from ..inputs.face import DETECTOR, RECOGNISER
from ..inputs.text import PIECES

WEIGHTS = Path(__file__).parent / "weights"
TRANSFORMERS, VAE = "transformers.safetensors", "vae.safetensors"
TEXT, WAV2VEC = "text.safetensors", "wav2vec2.safetensors"
FILES = (TRANSFORMERS, VAE, TEXT, WAV2VEC, PIECES, DETECTOR, RECOGNISER)
BYTES = 31_000_000  # about what `write_toy_release` writes


def is_packed() -> bool:
    """Whether the trained networks are installed: a package can come without them."""
    return all((WEIGHTS / name).is_file() for name in FILES)
