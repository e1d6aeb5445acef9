"""What networks need of a device's memory beside their weights.

The factors are counted (`benchmarks/imagined.py`; `tests/test_full_size.py` holds them to it), and a little more: what
kernels take for themselves cannot be counted.
"""

from __future__ import annotations

import torch

from ..model.config import Grid, TransformerConfig
from ..model.modulation import PER_BLOCK, PER_HEAD

AUDIO_TOKENS = 32  # a latent frame, of the released projector
BLOCK = 9  # widths a token in a block, in the MLP as in attention: 8 are counted
VAE_CHANNELS = 128  # of the finest level, of the released VAE


def activation_bytes(config: TransformerConfig, grid: Grid, samples: int, dtype: torch.dtype) -> int:
    """Bytes that are alive at once while `samples` of a clip on `grid` are evaluated in `dtype`.

    A block's, and for all layers keys and values of the portrait, and those of each sample's sound.
    """
    block = BLOCK * samples * (grid.tokens + config.text_tokens) * config.hidden
    portrait, sound = grid.tokens_per_frame, samples * grid.frames * AUDIO_TOKENS
    held = 2 * config.layers * (portrait + sound) * config.hidden
    return (block + held) * dtype.itemsize


def run_bytes(
    config: TransformerConfig, grid: Grid, portraits: int, sounds: int, steps: int, dtype: torch.dtype
) -> int:
    """Bytes that a run keeps beside what a single evaluation needs (`activation_bytes`): keys and values of further
    portraits and sounds, which are the nulls, the modulation of all steps, and the learned positions."""
    further = (portraits - 1) * grid.tokens_per_frame + (sounds - 1) * grid.frames * AUDIO_TOKENS
    modulation = steps * (PER_BLOCK * config.layers + PER_HEAD)
    widths = 2 * config.layers * further + modulation + grid.tokens + config.text_tokens
    return widths * config.hidden * dtype.itemsize


def reference_bytes(config: TransformerConfig, grid: Grid, samples: int, dtype: torch.dtype) -> int:
    """Bytes that the reference network needs for `samples` pictures on `grid`: a block's, and the features of all
    layers, its result."""
    widths = BLOCK * (grid.tokens + config.text_tokens) + config.layers * grid.tokens
    return samples * widths * config.hidden * dtype.itemsize


def encode_bytes(frames: int, height: int, width: int, dtype: torch.dtype) -> int:
    """Bytes that the VAE needs to encode so many frames of these pixels in one call."""
    return (18 + 5 * frames) * _finest_frame(height, width, dtype)


def decode_bytes(frames: int, height: int, width: int, dtype: torch.dtype) -> int:
    """Bytes that the VAE needs to decode so many latent frames to these pixels: a chunk of up to 9 frames, and what the
    convolutions keep for the next one."""
    return (40 if frames == 1 else 95) * _finest_frame(height, width, dtype)


def _finest_frame(height: int, width: int, dtype: torch.dtype) -> int:
    """A frame at the VAE's finest level."""
    return VAE_CHANNELS * height * width * dtype.itemsize
